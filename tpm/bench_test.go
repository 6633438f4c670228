package tpm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// bus is a connection that keeps the last command, to send it again without us.
type bus struct {
	transport.TPM
	last []byte
}

func (b *bus) Send(command []byte) ([]byte, error) {
	b.last = bytes.Clone(command)
	return b.TPM.Send(command)
}

// overRaw reports how much longer work takes than the one command that it sends, sent
// again by itself on the same connection: each in turn, so that both meet the same noise.
func overRaw(b *testing.B, chip *tpm.TPM, wire *bus, work func()) {
	work()
	raw := wire.last
	var ours, theirs []time.Duration
	before := chip.Commands()
	b.ReportAllocs()
	for b.Loop() {
		began := time.Now()
		work()
		ours = append(ours, time.Since(began))
		began = time.Now()
		if _, err := wire.TPM.Send(raw); err != nil {
			b.Fatal(err)
		}
		theirs = append(theirs, time.Since(began))
	}
	b.ReportMetric(float64(median(ours))/float64(median(theirs)), "x-raw")
	b.ReportMetric(float64(chip.Commands()-before)/float64(len(ours)), "commands/op")
}

func median(list []time.Duration) time.Duration {
	slices.Sort(list)
	return list[len(list)/2]
}

func wired(b *testing.B) (*tpm.TPM, *bus) {
	b.Helper()
	_, power := tpmtest.Start(b)
	wire := &bus{TPM: dial(b, power)}
	chip := tpm.New(wire)
	b.Cleanup(func() { _ = chip.Close() })
	return chip, wire
}

// BenchmarkQuote against TPM2_Quote alone (BUDGETS 5).
func BenchmarkQuote(b *testing.B) {
	chip, wire := wired(b)
	ak := must(chip.CreateKey(b.Context(), tpm.AK))(b)
	nonce := sha256.Sum256([]byte("nonce"))
	overRaw(b, chip, wire, func() {
		if _, _, err := chip.Quote(b.Context(), ak, nonce[:], pcrs()); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkSign against TPM2_Sign alone.
func BenchmarkSign(b *testing.B) {
	chip, wire := wired(b)
	key := must(chip.CreateKey(b.Context(), tpm.Operational))(b)
	digest := sha256.Sum256([]byte("message"))
	overRaw(b, chip, wire, func() {
		if _, err := key.Sign(nil, digest[:], crypto.SHA256); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkEnrol counts the commands of a whole enrolment (BUDGETS 4).
func BenchmarkEnrol(b *testing.B) {
	_, power := tpmtest.StartManufactured(b)
	commands, n := uint64(0), 0
	for b.Loop() {
		chip := tpm.New(dial(b, power))
		enrolAsShipped(b.Context(), b, chip)
		commands, n = commands+chip.Commands(), n+1
		_ = chip.Close()
	}
	b.ReportMetric(float64(commands)/float64(n), "commands/op")
}

// BenchmarkTLS counts the signatures of full and of resumed handshakes.
func BenchmarkTLS(b *testing.B) {
	for name, resume := range map[string]bool{"full": false, "resumed": true} {
		b.Run(name, func(b *testing.B) {
			chip, _ := wired(b)
			link := newLink(b, must(chip.CreateKey(b.Context(), tpm.Operational))(b))
			link.connect(b)
			before, n := chip.Commands(), 0
			for b.Loop() {
				if !resume {
					link.config.ClientSessionCache = nil
				}
				link.connect(b)
				n++
			}
			b.ReportMetric(float64(chip.Commands()-before)/float64(n), "commands/op")
		})
	}
}

// link is a device's TLS client and a server for it.
type link struct {
	address string
	config  *tls.Config
}

func newLink(t testing.TB, key *tpm.Key) *link {
	t.Helper()
	server, pool := serverCertificate(t)
	device := selfSigned(t, key)
	listener := must(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13,
	}))(t)
	t.Cleanup(func() { _ = listener.Close() })
	go answer(listener)
	return &link{listener.Addr().String(), &tls.Config{
		RootCAs: pool, ServerName: "fleet", MinVersion: tls.VersionTLS13,
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &device, nil
		},
	}}
}

// connect makes one connection, to its first byte: tickets come before it.
func (l *link) connect(t testing.TB) (resumed bool) {
	t.Helper()
	conn := must((&tls.Dialer{NetDialer: &net.Dialer{}, Config: l.config}).DialContext(context.Background(), "tcp", l.address))(t)
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return conn.(*tls.Conn).ConnectionState().DidResume
}

// hardware is what a discrete chip adds to each operation with a private key.
const hardware = 200 * time.Millisecond

// BenchmarkAsOnHardware shows what a device feels whose chip takes 200 ms for each
// operation with a private key. It does each once, however often it is asked.
func BenchmarkAsOnHardware(b *testing.B) {
	_, power := tpmtest.Start(b)
	chip := tpm.New(tpmtest.NewSlow(dial(b, power), hardware))
	defer chip.Close()
	report := func(name string, work func()) {
		began := time.Now()
		work()
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms-"+name)
	}
	report("enrol", func() {
		if err := enrolAndAttest(b.Context(), b, chip); err != nil {
			b.Fatal(err)
		}
	})
	ak := must(chip.CreateKey(b.Context(), tpm.AK))(b)
	key := must(chip.CreateKey(b.Context(), tpm.Operational))(b)
	report("attest", func() {
		if _, _, err := chip.Quote(b.Context(), ak, nil, pcrs()); err != nil {
			b.Fatal(err)
		}
		must(chip.ReadPCRs(b.Context(), pcrs()))(b)
	})
	link := newLink(b, key)
	report("connect", func() { link.connect(b) })
	report("resume", func() {
		if !link.connect(b) {
			b.Fatal("not resumed")
		}
	})
	b.ReportMetric(0, "ns/op")
}

// TestTheSlowChipIsSlowForPrivateKeysOnly, or the benchmark above shows nothing.
func TestTheSlowChipIsSlowForPrivateKeysOnly(t *testing.T) {
	t.Parallel()
	_, power := tpmtest.Start(t)
	chip := tpm.New(tpmtest.NewSlow(dial(t, power), hung)) // longer than any machine takes for what is not slowed
	began := time.Now()
	must(chip.ReadPCRs(t.Context(), []int{0}))(t)
	must(chip.Info(t.Context()))(t)
	if took := time.Since(began); took >= hung {
		t.Errorf("reading takes %v", took)
	}
	_ = chip.Close()
	const delay = 500 * time.Millisecond
	chip = tpm.New(tpmtest.NewSlow(dial(t, power), delay))
	defer chip.Close()
	began = time.Now()
	must(chip.CreateKey(t.Context(), tpm.AK))(t)
	if took := time.Since(began); took < 2*delay {
		t.Errorf("deriving the storage key and making one takes %v", took)
	}
}
