package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/operator"
	"github.com/gatewarden/gatewarden/fleet/registry"
)

// office serves the operator API on a registry with 120 waiting devices.
func office(t *testing.T) (socket string, store *registry.Store) {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if store, err = registry.OpenSQLite(filepath.Join(dir, "registry.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	for n := range 120 {
		id := "gw-" + strings.Repeat("a", 13) + string([]byte{'a' + byte(n/26), 'a' + byte(n%26), 'a'})
		if _, _, err := store.Enroll(t.Context(), registry.Device{ID: id, EKName: []byte(id), Created: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	handler, err := operator.New(operator.Config{
		Fleet: "f", Registry: store, Now: time.Now, Log: slog.New(slog.DiscardHandler), Drop: func(string) {},
		Deliver: func(context.Context, string) error { return nil }, Vouched: func(registry.Device) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "o")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return socket, store
}

func TestPeopleLetGatewaysInAndOut(t *testing.T) {
	socket, store := office(t)
	do := func(code int, args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if got := run(t.Context(), append(args, "--socket", socket), &stdout, &stderr); got != code {
			t.Fatalf("%v: exit code %d\n%s%s", args, got, &stdout, &stderr)
		}
		return stdout.String() + stderr.String()
	}
	says := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%q does not say %q", text, want)
			}
		}
	}
	var all []operator.Device
	if err := json.Unmarshal([]byte(do(0, "devices", "list", "--state", "pending", "--json")), &all); err != nil || len(all) != 120 {
		t.Errorf("%d devices listed, %v", len(all), err)
	}
	id := all[7].ID
	says(do(0, "devices", "transfer", id, "--by", "olga", "--reason", "to Bern"), id+": transferred")
	says(do(0, "devices", "decommission", id, "--by", "olga", "--reason", "scrapped"), id+": decommissioned")
	says(do(0, "devices", "list", "--state", "decommissioned"), id)
	says(do(0, "devices", "revoke", id, "--by", "olga", "--reason", "stolen", "--json"), `"done": "revoked"`)
	says(do(1, "devices", "transfer", id, "--by", "olga", "--reason", "found"), "was revoked", "hint: ")
	says(do(1, "devices", "approve", id, "--by", "olga", "--reason", "found"), "was revoked", "--accept-revoked")
	says(do(0, "devices", "approve", id, "--by", "olga", "--reason", "found", "--accept-revoked"), id+": approved")
	says(do(0, "devices", "list", "--state", "active"), id)
	says(do(1, "devices", "list", "--keys", "chip"), `there is no keys "chip"`, "tpm, software")

	made := do(0, "tokens", "create", "--by", "olga", "--note", "site 4", "--life", "1h")
	says(made, "gwt-", "good for one gateway until", "not shown again")
	tokens, err := store.Tokens(t.Context())
	if err != nil || len(tokens) != 1 || strings.Contains(do(0, "tokens", "list", "--json"), "gwt-") {
		t.Fatalf("%+v, %v", tokens, err)
	}
	says(do(0, "tokens", "list"), tokens[0].ID, "unused", "olga", "site 4")
	says(do(0, "tokens", "revoke", tokens[0].ID, "--by", "olga"), "ended")
	says(do(1, "tokens", "revoke", tokens[0].ID, "--by", "olga"), "no unused token")
	says(do(1, "tokens", "create", "--life", "0s"), "--life")

	hash := strings.Repeat("0f", 32)
	says(do(0, "allow", "add", "--ek", hash, "--serial", "11:22", "--by", "olga", "--note", "lot 9"), "2 entries: added")
	says(do(0, "allow", "list"), hash, "1122", "lot 9")
	says(do(0, "allow", "remove", "--serial", "1122", "--by", "olga"), "1 entries: removed")
	says(do(1, "allow", "add"), "nothing is named", "hint: ")
	says(do(1, "allow", "add", "--certificate", "/nonexistent"), "read EK certificate")
}
