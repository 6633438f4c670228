package registry_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// BenchmarkAcceptAll: the share of one message in a group commit.
func BenchmarkAcceptAll(b *testing.B) {
	for _, size := range []int{1, 64, 1024} {
		b.Run(fmt.Sprint("batch=", size), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "fleet.db"))
			if _, _, err := s.Enroll(b.Context(), registry.Device{ID: killDevice, EKName: []byte("ek")}); err != nil {
				b.Fatal(err)
			}
			batch, body := make([]registry.Message, size), json.RawMessage(`{"v":1,"grade":"ok"}`)
			seq := uint64(0)
			for b.Loop() {
				for i := range batch {
					batch[i] = registry.Message{Device: killDevice, Stream: "s", Seq: seq + 1, Prev: seq, Kind: "health", Received: time.Unix(int64(seq), 0), Body: body}
					seq++
				}
				if _, err := s.AcceptAll(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(seq), "us/message")
		})
	}
}

// BenchmarkDevicesPage: a filtered page of 50 must not depend on the fleet's size.
func BenchmarkDevicesPage(b *testing.B) {
	for _, size := range []int{5_000, 50_000} {
		s := open(b, filepath.Join(b.TempDir(), "fleet.db"))
		if err := s.Fill(b.Context(), size); err != nil {
			b.Fatal(err)
		}
		for name, f := range map[string]registry.Filter{
			"state": {State: registry.Pending}, "state+grade": {State: registry.Active, Grade: "degraded"}, "grade": {Grade: "untrusted"},
			"model": {Model: "m3"}, "search id": {Search: "gw-00000000005"}, "search host": {Search: "host-55"},
		} {
			b.Run(fmt.Sprintf("%s/devices=%d", name, size), func(b *testing.B) {
				for b.Loop() {
					if _, err := s.Devices(b.Context(), f); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkReleases counts a third of the fleet.
func BenchmarkReleases(b *testing.B) {
	for _, size := range []int{5_000, 50_000} {
		s := open(b, filepath.Join(b.TempDir(), "fleet.db"))
		if err := s.Fill(b.Context(), size); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("devices=%d", size), func(b *testing.B) {
			for b.Loop() {
				if counts, err := s.Releases(b.Context(), []string{"edge 1"}); err != nil || counts["edge 1"].Running == 0 {
					b.Fatal(counts, err)
				}
			}
		})
	}
}

// BenchmarkAddCertificate: the journal's share of one certificate, many at once.
func BenchmarkAddCertificate(b *testing.B) {
	for _, at := range []int{1, 64, 256} {
		b.Run(fmt.Sprint("at once=", at), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "fleet.db"))
			if _, _, err := s.Enroll(b.Context(), registry.Device{ID: killDevice, EKName: []byte("ek")}); err != nil {
				b.Fatal(err)
			}
			if err := s.SetState(b.Context(), killDevice, registry.Active, "alice", "", time.Unix(1, 0)); err != nil {
				b.Fatal(err)
			}
			der := make([]byte, 700)
			var serial atomic.Int64
			b.SetParallelism(at)
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					err := s.AddCertificate(b.Context(), registry.Certificate{
						Serial: fmt.Sprintf("%032x", uint64(serial.Add(1))*0x9e3779b97f4a7c15), Device: killDevice, Identity: killDevice, Profile: "full", SPKI: fmt.Sprintf("%064x", 1),
						NotAfter: time.Unix(1000, 0), IssuedAt: time.Unix(1, 0), DER: der,
					}, "")
					if err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
