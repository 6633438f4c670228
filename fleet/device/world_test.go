package device_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/agent/evidence"
	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/fleet/ca"
	"github.com/gatewarden/gatewarden/fleet/device"
	"github.com/gatewarden/gatewarden/fleet/ear"
	"github.com/gatewarden/gatewarden/fleet/registry"
	"github.com/gatewarden/gatewarden/fleet/verifier"
	"github.com/gatewarden/gatewarden/internal/est"
	"github.com/gatewarden/gatewarden/internal/fsx"
	"github.com/gatewarden/gatewarden/internal/wire"
	"github.com/gatewarden/gatewarden/testdata/boot"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

const fleetID = "lab"

// world is the API behind a real TLS server, with a clock of its own.
type world struct {
	*testing.T
	dir    string
	ca     *ca.CA
	store  *registry.Store
	config device.Config
	url    string
	law    atomic.Pointer[attest.Policy]
	ahead  atomic.Int64 // how far the fleet's clock is ahead, ns

	mu      sync.Mutex
	dropped []string
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

func newWorld(t *testing.T, change func(*device.Config)) *world {
	t.Helper()
	w := &world{T: t, dir: t.TempDir()}
	w.must(ca.Init(filepath.Join(w.dir, "ca"), fleetID, time.Now()))
	var err error
	w.ca, err = ca.Open(filepath.Join(w.dir, "ca"))
	w.must(err)
	w.store, err = registry.OpenSQLite(filepath.Join(w.dir, "registry.db"))
	w.must(err)
	t.Cleanup(func() { w.store.Close() })
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if os.Getenv("GATEWARDEN_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	w.enact(nil)
	keys, err := ear.OpenKeys(&fsx.FS{}, filepath.Join(w.dir, "results"), time.Now())
	w.must(err)
	results, err := ear.New(ear.Config{Keys: keys, Fleet: fleetID, Build: "test", Now: w.now})
	w.must(err)
	v, err := verifier.New(verifier.Config{
		Registry: w.store, Fleet: fleetID, Policy: w.law.Load, Now: w.now, Fell: func(string) {}, Results: results, Log: log,
	})
	w.must(err)
	c := device.Config{
		Fleet: fleetID, Registry: w.store, CA: w.ca, Verifier: v, Retry: 250 * time.Millisecond, Now: w.now, Log: log,
		Lives: device.Lives{Full: 7 * 24 * time.Hour, Short: 24 * time.Hour, Quarantine: 24 * time.Hour},
		Drop: func(identity string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.dropped = append(w.dropped, identity)
		},
	}
	if change != nil {
		change(&c)
	}
	handler, err := device.New(c)
	w.must(err)
	w.config = c
	w.serve(handler)
	return w
}

// rollOver makes new intermediates, as `ca rollover` does, and starts a server that
// knows them beside the one that does not.
func (w *world) rollOver(drop bool) {
	w.Helper()
	vault := ca.Vault{Dir: filepath.Join(w.dir, "ca")}
	_, err := vault.Rollover(filepath.Join(w.dir, "ca", "root.key"), drop, time.Now())
	w.must(err)
	w.ca, err = vault.Open()
	w.must(err)
	w.config.CA = w.ca
	handler, err := device.New(w.config)
	w.must(err)
	w.serve(handler)
}

// enact puts a policy with these rules into force.
func (w *world) enact(rules map[string]attest.Severity) {
	w.Helper()
	raw, err := json.Marshal(attest.Policy{
		Version: 1, Issued: time.Now().UTC(), Fleet: fleetID, Releases: []attest.Release{measured().Release("lab", "1")}, Rules: rules,
	})
	w.must(err)
	p, err := attest.ParsePolicy(raw)
	w.must(err)
	w.law.Store(p)
}

func (w *world) serve(handler http.Handler) {
	key := newKey(w.T)
	leaf, chain, err := w.ca.Issue(ca.Service, wire.FleetIdentity, key.Public(), time.Now(), 24*time.Hour, "127.0.0.1")
	w.must(err)
	own := &tls.Certificate{PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw, chain[0].Raw}}
	clients := x509.NewCertPool()
	for _, issuer := range w.ca.Issuers(ca.Full, ca.Quarantine) {
		clients.AddCert(issuer)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go server.Serve(tls.NewListener(inner, device.TLS(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own, nil }, clients, w.store, w.now)))
	w.Cleanup(func() { server.Close() })
	w.url = "https://" + inner.Addr().String()
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// client speaks to the API with this certificate, or without one.
func (w *world) client(own *tls.Certificate) *http.Client {
	config := &tls.Config{RootCAs: w.ca.Roots(), MinVersion: tls.VersionTLS13, Time: time.Now}
	if own != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	c := &http.Client{Timeout: 3 * time.Minute, Transport: &http.Transport{TLSClientConfig: config}}
	w.Cleanup(c.CloseIdleConnections)
	return c
}

// call is one request.
type call struct {
	client       *http.Client // nil: without a certificate
	method       string       // POST if empty
	path         string
	kind         string // application/json if empty
	user, secret string
	proof        *wire.KeyProof
	body         any // []byte as it is, all else as JSON
}

// answer is what came back.
type answer struct {
	status  int
	header  http.Header
	body    []byte
	problem wire.Problem
}

func (w *world) try(c call) (answer, error) {
	w.Helper()
	if c.client == nil {
		c.client = w.client(nil)
	}
	if c.method == "" {
		c.method = http.MethodPost
	}
	if c.kind == "" {
		c.kind = "application/json"
	}
	body, raw := c.body.([]byte)
	if !raw && c.body != nil {
		var err error
		body, err = json.Marshal(c.body)
		w.must(err)
	}
	r, err := http.NewRequestWithContext(w.Context(), c.method, w.url+c.path, bytes.NewReader(body))
	w.must(err)
	r.Header.Set("Content-Type", c.kind)
	if c.user != "" {
		r.SetBasicAuth(c.user, c.secret)
	}
	if c.proof != nil {
		data, err := json.Marshal(c.proof)
		w.must(err)
		r.Header.Set(wire.KeyProofHeader, base64.StdEncoding.EncodeToString(data))
	}
	resp, err := c.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	if a.body, err = io.ReadAll(resp.Body); err != nil {
		return a, err
	}
	if est.SameType(resp.Header.Get("Content-Type"), "application/problem+json") {
		w.must(json.Unmarshal(a.body, &a.problem))
	}
	return a, nil
}

func (w *world) do(c call) answer {
	w.Helper()
	a, err := w.try(c)
	w.must(err)
	return a
}

// refused checks that c is refused by this rule, in words for people.
func (w *world) refused(c call, status int, rule string) {
	w.Helper()
	a := w.do(c)
	if a.status != status || a.problem.Rule != rule || a.problem.Status != status || a.problem.Title == "" || a.problem.Detail == "" {
		w.Errorf("%s: %d %+v, want %d by rule %q", c.path, a.status, a.problem, status, rule)
	}
}

// ok does c and decodes the answer.
func (w *world) ok(c call, v any) {
	w.Helper()
	a := w.do(c)
	if a.status != http.StatusOK {
		w.Fatalf("%s: %d %s", c.path, a.status, a.body)
	}
	if v != nil {
		w.must(json.Unmarshal(a.body, v))
	}
}

// box is a gateway: a TPM, its keys, and no more cleverness than a test needs.
type box struct {
	*world
	power  *tpmtest.Power
	tpm    *tpm.TPM
	ek     *tpm.EK
	ak     *tpm.Key
	id     string
	log    string
	serial string
	token  string // sent with an enrolment
	iak    []byte // certificate of the maker's key, which then vouches for the AK
}

func measured() attest.Boot {
	section := func(name string) attest.Section {
		return attest.Section{Name: name, Digest: sha256.Sum256([]byte(name))}
	}
	return attest.Boot{
		Loader: sha256.Sum256([]byte("loader")), LoaderPath: `\EFI\BOOT\BOOTX64.EFI`,
		UKI: sha256.Sum256([]byte("uki")), UKIPath: `\EFI\Linux\gw.efi`, Kernel: sha256.Sum256([]byte("kernel")),
		Sections: []attest.Section{section(".linux"), section(".osrel"), section(".cmdline"), section(".uname")}, CommandLine: "root=a ro",
	}
}

func (w *world) box() *box {
	w.Helper()
	_, power := tpmtest.Start(w.T)
	return w.boxOn(power)
}

func (w *world) boxOn(power *tpmtest.Power) *box {
	w.Helper()
	b := &box{world: w, power: power, log: filepath.Join(w.TempDir(), "eventlog")}
	raw, err := attest.CutAtFirstBootApplication(boot.EventLog)
	w.must(err)
	for _, event := range attest.BootEvents(measured()) {
		raw = attest.AppendEvent(raw, event)
	}
	log, err := attest.ParseEventLog(raw)
	w.must(err)
	for _, event := range log.Events {
		if event.Extends() {
			w.must(power.Extend(w.Context(), event.PCR, event.Digest))
		}
	}
	for _, phase := range []string{"sysinit", "ready"} {
		w.must(power.Extend(w.Context(), 11, sha256.Sum256([]byte(phase))))
	}
	w.must(os.WriteFile(b.log, raw, 0o600))
	b.tpm, err = tpm.Open(w.Context(), "unix:"+power.Socket)
	w.must(err)
	w.Cleanup(func() { b.tpm.Close() })
	b.ek, err = b.tpm.EK(w.Context(), "")
	w.must(err)
	b.id = wire.DeviceID(fleetID, b.ek.Name)
	b.newAK()
	return b
}

func (b *box) newAK() {
	b.Helper()
	var err error
	b.ak, err = b.tpm.CreateKey(b.Context(), tpm.AK)
	b.must(err)
}

func (b *box) key() *tpm.Key {
	b.Helper()
	key, err := b.tpm.CreateKey(b.Context(), tpm.Operational)
	b.must(err)
	return key
}

// csr asks for a certificate for subject.
func (b *box) csr(key *tpm.Key, subject string) []byte {
	b.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: subject}, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, key)
	b.must(err)
	return der
}

// prove certifies key for csr by ak.
func (b *box) prove(ak, key *tpm.Key, csr []byte) wire.KeyProof {
	b.Helper()
	proof := wire.KeyProof{Public: key.TPMPublic()}
	var err error
	proof.Certify, proof.Signature, err = b.tpm.Certify(b.Context(), ak, key, wire.CertifyQualifyingData(fleetID, csr))
	b.must(err)
	return proof
}

// ask is an enrolment as it should be.
func (b *box) ask(key *tpm.Key) wire.EnrollRequest {
	b.Helper()
	csr := b.csr(key, b.id)
	ask := wire.EnrollRequest{
		Version: 1, EKCertificate: b.ek.Certificate, EKChain: b.ek.Chain, EKPublic: b.ek.Public, AKPublic: b.ak.TPMPublic(),
		CSR: csr, Key: b.prove(b.ak, key, csr), Model: "lab-box", Software: "1.0", Token: b.token,
	}
	if b.iak != nil {
		ask.IAK = &wire.IAK{Certificate: b.iak}
		var err error
		ask.IAK.Certify, ask.IAK.Signature, err = b.tpm.CertifyBy(b.Context(), uint32(tpmtest.IAKHandle), b.ak, wire.IAKQualifyingData(fleetID, b.ek.Name))
		b.must(err)
	}
	return ask
}

// ticket is an enrolment whose challenge was solved.
type ticket struct {
	id, secret string
	csr        []byte
	key        *tpm.Key
}

func (b *box) ticket() ticket {
	b.Helper()
	key := b.key()
	ask := b.ask(key)
	var c wire.EnrollChallenge
	b.ok(call{path: wire.PathEnroll, body: ask}, &c)
	secret, err := b.tpm.Activate(b.Context(), b.ek, b.ak, c.CredentialBlob, c.EncryptedSecret)
	b.must(err)
	return ticket{c.Ticket, hex.EncodeToString(secret), ask.CSR, key}
}

func (t ticket) call(path string, body any) call {
	return call{path: path, user: t.id, secret: t.secret, body: body}
}

func (t ticket) simpleEnroll() call {
	return call{path: wire.PathSimpleEnroll, kind: est.TypeCSR, user: t.id, secret: t.secret, body: []byte(base64.StdEncoding.EncodeToString(t.csr))}
}

// evidence answers a challenge, claiming key.
func (b *box) evidence(c wire.Challenge, key string) attest.Evidence {
	b.Helper()
	collector, err := evidence.New(evidence.Config{
		TPM: b.tpm, AK: b.ak, Fleet: fleetID, Device: b.id,
		Claims: func() attest.Claims { return attest.Claims{Version: 1, Software: "1.0"} },
		Logs: func(context.Context) (*os.File, *os.File, error) {
			f, err := os.Open(b.log)
			return f, nil, err
		},
	})
	b.must(err)
	ev, err := collector.Collect(b.Context(), c, key)
	b.must(err)
	return ev
}

// attest answers a fresh challenge through the channel that with makes.
func (b *box) attest(with func(path string, body any) call, key string) (v wire.Verdict) {
	b.Helper()
	var c wire.Challenge
	b.ok(with(wire.PathChallenge, struct{}{}), &c)
	b.ok(with(wire.PathEvidence, b.evidence(c, key)), &v)
	return v
}

func spkiOf(t *testing.T, public any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

func (b *box) approve() {
	b.Helper()
	b.must(b.store.SetState(b.Context(), b.id, registry.Active, "olga", "test", b.now()))
}

// enrol goes all the way to a certificate and returns it.
func (b *box) enrol() *tls.Certificate {
	b.Helper()
	t := b.ticket()
	claim := spkiOf(b.T, t.key.Public())
	b.attest(t.call, claim)
	b.approve()
	b.attest(t.call, claim)
	a := b.do(t.simpleEnroll())
	if a.status != http.StatusOK {
		b.Fatalf("simpleenroll: %d %s", a.status, a.body)
	}
	return b.certificate(a.body, t.key)
}

func (b *box) certificate(body []byte, key *tpm.Key) *tls.Certificate {
	b.Helper()
	chain, err := est.ParseCertsOnly(body)
	b.must(err)
	own := &tls.Certificate{PrivateKey: key, Leaf: chain[0], SupportedSignatureAlgorithms: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}}
	for _, c := range chain {
		own.Certificate = append(own.Certificate, c.Raw)
	}
	b.serial = chain[0].SerialNumber.Text(16)
	return own
}

// by makes calls with a certificate.
func (w *world) by(own *tls.Certificate) func(path string, body any) call {
	client := w.client(own)
	return func(path string, body any) call { return call{client: client, path: path, body: body} }
}

// reenroll asks to replace own by a certificate for key.
func (b *box) reenroll(own *tls.Certificate, key *tpm.Key) call {
	b.Helper()
	csr := b.csr(key, b.id)
	proof := b.prove(b.ak, key, csr)
	return call{
		client: b.client(own), path: wire.PathSimpleReenroll, kind: est.TypeCSR, proof: &proof,
		body: []byte(base64.StdEncoding.EncodeToString(csr)),
	}
}
