package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// devicePage answers /devices/{id}.
func (s *site) devicePage(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	ctx, cancel := context.WithTimeout(r.Context(), pageTime)
	defer cancel()
	var known record
	err := error(registry.ErrNotFound)
	if isDevice(id) {
		known, err = readDevice(ctx, s.Registry, id)
	}
	if errors.Is(err, registry.ErrNotFound) {
		s.sorry(w, r, http.StatusNotFound, "There is no such gateway",
			"No gateway with this id has enrolled in this fleet. A gateway's id is gw- and 16 letters or digits.")
		return
	}
	if err != nil {
		s.broken(w, r, err)
		return
	}
	view := viewDevice(known, s.Now())
	s.show(w, r, http.StatusOK, "device", frame{Title: view.Name, Device: id, Live: true, Body: view})
}

// record is all that a device page tells of.
type record struct {
	device       registry.Device
	verdict      registry.Verdict // zero before the first
	health       registry.Message // zero before the first
	certificates []registry.Certificate
	commands     []registry.CommandRecord
	events       []registry.Event
	updates      []registry.UpdateRecord
	firmware     []json.RawMessage
}

// readDevice makes each call once. ErrNotFound means that the device is unknown.
func readDevice(ctx context.Context, r Registry, id string) (record, error) {
	var k record
	var err error
	if k.device, err = r.Device(ctx, id); err != nil {
		return k, fmt.Errorf("read device: %w", err)
	}
	if k.verdict, err = r.LastVerdict(ctx, id); err != nil && !errors.Is(err, registry.ErrNotFound) {
		return k, fmt.Errorf("read verdict: %w", err)
	}
	if k.health, err = r.Health(ctx, id); err != nil && !errors.Is(err, registry.ErrNotFound) {
		return k, fmt.Errorf("read health: %w", err)
	}
	if k.certificates, err = r.Certificates(ctx, id); err != nil {
		return k, fmt.Errorf("read certificates: %w", err)
	}
	if k.commands, err = r.Commands(ctx, id, commandRows); err != nil {
		return k, fmt.Errorf("read commands: %w", err)
	}
	if k.events, err = r.Events(ctx, id, 0, deviceEvents); err != nil {
		return k, fmt.Errorf("read timeline: %w", err)
	}
	if k.updates, err = r.Updates(ctx, id, updateRows+1); err != nil {
		return k, fmt.Errorf("read updates: %w", err)
	}
	if k.firmware, err = r.Firmware(ctx, k.device.Model); err != nil {
		return k, fmt.Errorf("read firmware: %w", err)
	}
	return k, nil
}

// deviceView is the body of a device page.
type deviceView struct {
	ID, Name, Model, Software string
	State                     mark
	Seen                      moment
	Verdict                   verdictView
	Updates                   updatesView
	Events                    []eventView
	Commands                  []commandView
	Health                    healthView
	Certificates              []certView
	OlderCertificates         string
	Identity                  []pair
	Firmware                  []firmwareView
}

func viewDevice(k record, now time.Time) deviceView {
	d := k.device
	v := deviceView{
		ID: d.ID, Name: name(d), Model: plain(d.Model), Software: plain(d.Software), State: stateMark(d.State), Seen: at(d.LastSeen, now),
		Verdict: viewVerdict(d, k.verdict, now), Updates: viewUpdates(k, now), Events: viewEvents(k.events, now, nil), Health: viewHealth(k.health, k.verdict, now),
		Identity: viewIdentity(d, now), Firmware: viewFirmware(k.firmware),
	}
	for _, c := range k.commands {
		v.Commands = append(v.Commands, viewCommand(c, now))
	}
	for i, c := range k.certificates {
		if i == certRows {
			v.OlderCertificates = "and " + count(len(k.certificates)-i, "older one") + "."
			break
		}
		v.Certificates = append(v.Certificates, viewCertificate(c, now))
	}
	return v
}
