package packaging_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/attest"
	"github.com/gatewarden/gatewarden/internal/bench/rig"
	"github.com/gatewarden/gatewarden/internal/policy"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

const fleetConfig = `fleet = "example"
[public]
api = ["https://localhost:8443"]
mqtt = ["mqtts://localhost:8883"]
[enroll]
retry = "1s"
`

// One gateway and its fleet server, from the first install to the purge, each step
// by dpkg and in the sandbox of the installed units.
func TestLifeOfInstalledPackages(t *testing.T) {
	scratch(t, "systemd-nspawn", "nsenter")
	agent1, agent2 := packages(t, "gatewarden_*.deb")
	server1, server2 := packages(t, "gatewarden-fleet_*.deb")
	_, power := tpmtest.StartManufactured(t)
	log, err := rig.Measure(t.Context(), power)
	if err != nil {
		t.Fatal(err)
	}
	host := filepath.Dir(power.Socket)
	for path, mode := range map[string]os.FileMode{host: 0o755, power.Socket: 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	m := boot(t, host)
	write(t, filepath.Join(m.root, "srv/eventlog"), string(log))
	before := m.files()
	said := m.install(agent1, server1)

	steps := []struct {
		claim string
		test  func(*machine)
	}{
		{"an unconfigured machine waits and says what to do", func(m *machine) { waits(m, said) }},
		{"doctor says of an installed machine what it still lacks", func(m *machine) {
			doctor(m, "1", "enrol=no tpm.absent", "trust=problem", "accounts=ok", "helper=ok", "config=ok", "agent=ok")
		}},
		{"the server starts by itself once it has keys and a policy", serverStarts},
		{"the agent starts by itself once it has its documents, and is trusted", func(m *machine) { agentStarts(m, filepath.Base(power.Socket)) }},
		{"doctor agrees that it can be enrolled", func(m *machine) {
			doctor(m, "0", "enrol=yes", "report=yes", "tpm=ok", "ek=ok", "accounts=ok", "helper=ok", "config=ok", "agent=ok", "disk=ok")
		}},
		{"only the agent may speak to the helper", helperIsClosed},
		{"units get the secrets that were sealed for them", unitsGetSecrets(power)},
		{"upgrade restarts and keeps everything", func(m *machine) { replaced(m, "1.1.0", agent2, server2) }},
		{"downgrade restarts and keeps everything", func(m *machine) { replaced(m, "1.0.0", agent1, server1) }},
		{"reinstall restarts and keeps everything", func(m *machine) { replaced(m, "1.0.0", agent1, server1) }},
		{"a unit that the administrator disabled stays so", staysDisabled(agent2)},
		{"remove ends the processes and keeps state, so that a new install goes on", removed(agent2, server2)},
		{"purge leaves nothing but the users", func(m *machine) { purged(m, before) }},
	}
	for _, step := range steps {
		if !t.Run(step.claim, func(t *testing.T) { step.test(&machine{t: t, root: m.root, leader: m.leader}) }) {
			return
		}
	}
}

func waits(m *machine, said string) {
	for _, hint := range []string{"fleet.json and operators.json are in /etc/gatewarden/trust", "gatewarden-fleet init"} {
		if !strings.Contains(said, hint) {
			m.t.Errorf("the install does not say %q:\n%s", hint, said)
		}
	}
	for unit, missing := range map[string]string{"gatewarden": "/etc/gatewarden/trust/", "gatewarden-fleet": "/var/lib/gatewarden-fleet/"} {
		status, _ := m.try("systemctl", "status", "--no-pager", unit) // exit code 3: not running
		if !strings.Contains(status, missing) {
			m.t.Errorf("the status of %s does not say %q:\n%s", unit, missing, status)
		}
		if n := m.property(unit, "NRestarts"); n != "0" || m.property(unit, "ActiveState") != "inactive" {
			m.t.Errorf("%s was started %s times more", unit, n)
		}
		if m.property(unit+".path", "ActiveState") != "active" {
			m.t.Errorf("nothing waits for what %s needs", unit)
		}
	}
	if failed := m.run("systemctl", "--failed", "--no-legend"); failed != "" {
		m.t.Errorf("failed: %s", failed)
	}
}

// doctor asks the machine what it can do: abilities with the first reason against
// them, and levels of checks.
func doctor(m *machine, exit string, wants ...string) {
	out, _ := m.try("sh", "-c", "gatewarden doctor --json --for enrol,report; echo exit $?")
	text, code, _ := strings.Cut(out, "\nexit ")
	var d struct {
		Abilities []struct {
			Ability, Answer string
			Because         []string
		}
		Findings []struct{ Check, Level string }
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		m.t.Fatalf("%v: %s", err, out)
	}
	var says []string
	for _, a := range d.Abilities {
		says = append(says, strings.TrimSpace(a.Ability+"="+a.Answer+" "+strings.Join(a.Because[:min(1, len(a.Because))], "")))
	}
	for _, f := range d.Findings {
		says = append(says, f.Check+"="+f.Level)
	}
	for _, want := range wants {
		if !slices.Contains(says, want) {
			m.t.Errorf("doctor does not say %s:\n%s", want, out)
		}
	}
	if strings.TrimSpace(code) != exit {
		m.t.Errorf("exit code %s, want %s:\n%s", code, exit, out)
	}
}

func serverStarts(m *machine) {
	write(m.t, filepath.Join(m.root, "etc/gatewarden-fleet/fleet.toml"), fleetConfig)
	m.run("runuser", "-u", "gatewarden-fleet", "--", "gatewarden-fleet", "init")
	if m.property("gatewarden-fleet", "ActiveState") != "inactive" {
		m.t.Error("the server started without a policy")
	}
	rules, err := json.Marshal(attest.Policy{
		Version: 1, Issued: time.Now().UTC(), Fleet: "example", Releases: []attest.Release{rig.BootSoftware().Release("rig", "1.0.0")},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	put(m, "var/lib/gatewarden-fleet/policy.json", rules)
	m.expect("active", "systemctl", "is-active", "gatewarden-fleet")
	m.expect("DEVICE", "gatewarden-fleet", "devices", "list")
}

// put makes a file appear whole.
func put(m *machine, name string, data []byte) {
	m.t.Helper()
	path := filepath.Join(m.root, name)
	write(m.t, path+".new", string(data))
	if err := os.Rename(path+".new", path); err != nil {
		m.t.Fatal(err)
	}
}

func agentStarts(m *machine, socket string) {
	write(m.t, filepath.Join(m.root, "etc/gatewarden/helper.env"), "GATEWARDEN_HELPER_ARGS=--event-log /srv/eventlog --tpm unix:/host/"+socket+"\n")
	write(m.t, filepath.Join(m.root, "etc/gatewarden/agent.toml"), `tpm = "unix:/host/`+socket+`"`+"\n[identity]\nmodel = \"rig\"\n")
	operators, err := json.Marshal(policy.Operators{Version: 1, Issued: time.Now().UTC(), Fleet: "example", People: []policy.Person{}, Verbs: map[string]policy.Grant{}})
	if err != nil {
		m.t.Fatal(err)
	}
	document, err := os.ReadFile(filepath.Join(m.root, "var/lib/gatewarden-fleet/trust/fleet.json"))
	if err != nil {
		m.t.Fatal(err)
	}
	put(m, "etc/gatewarden/trust/fleet.json", document)
	put(m, "etc/gatewarden/trust/operators.json", operators)
	m.expect("waiting for an operator to approve", "gatewarden", "status")
	m.await("approval", func() error {
		_, err := m.try("gatewarden-fleet", "devices", "approve", m.device(), "--by", "anna", "--reason", "test", "--accept-ek")
		return err
	})
	m.trusted()
	if journal := m.run("journalctl", "--no-pager", "-u", "gatewarden"); !strings.Contains(journal, "the file system is closed but for what the agent needs") {
		m.t.Errorf("Landlock does not hold in the unit:\n%s", journal)
	}
}

func (m *machine) device() string {
	return regexp.MustCompile(`gw-[a-z0-9]+`).FindString(m.run("gatewarden", "status"))
}

func (m *machine) trusted() {
	m.t.Helper()
	m.expect("connected to mqtts://localhost:8883", "gatewarden", "status")
	m.expect("trusted: release rig 1.0.0", "gatewarden", "attest", "--now")
}

func helperIsClosed(m *machine) {
	if _, err := m.try("runuser", "-u", "gatewarden-fleet", "--", "stat", "/run/gatewarden/helper.sock"); err == nil {
		m.t.Error("another user reaches the helper's socket")
	}
	for path, want := range map[string]string{
		"/run/gatewarden": "750 gatewarden gatewarden", "/run/gatewarden/helper.sock": "600 gatewarden gatewarden", "/run/gatewarden/credentials.sock": "600 root root",
		"/var/lib/gatewarden": "700 gatewarden gatewarden", "/var/lib/gatewarden-helper": "700 root root", "/etc/gatewarden/trust": "755 root root",
		"/var/lib/gatewarden-fleet": "700 gatewarden-fleet gatewarden-fleet",
	} {
		if got := strings.TrimSpace(m.run("stat", "--format=%a %U %G", path)); got != want {
			m.t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}

// replaced installs over what runs and compares what must stay.
func replaced(m *machine, version string, files ...string) {
	device := m.device()
	agent, server := m.property("gatewarden", "MainPID"), m.property("gatewarden-fleet", "MainPID")
	m.install(files...)
	if m.property("gatewarden", "MainPID") == agent || m.property("gatewarden-fleet", "MainPID") == server {
		m.t.Error("the old process still runs")
	}
	if out := m.run("gatewarden", "version"); !strings.Contains(out, version) {
		m.t.Errorf("version is %s, want %s", out, version)
	}
	m.trusted()
	if m.device() != device {
		m.t.Errorf("the gateway became %s", m.device())
	}
	if config, err := os.ReadFile(filepath.Join(m.root, "etc/gatewarden-fleet/fleet.toml")); err != nil || string(config) != fleetConfig {
		m.t.Errorf("the configuration was changed: %v\n%s", err, config)
	}
}

func staysDisabled(files ...string) func(*machine) {
	return func(m *machine) {
		m.run("systemctl", "disable", "--now", "gatewarden.service", "gatewarden.path")
		m.install(files...)
		for _, unit := range []string{"gatewarden.service", "gatewarden.path"} {
			if m.property(unit, "UnitFileState") != "disabled" || m.property(unit, "ActiveState") != "inactive" {
				m.t.Errorf("%s is %s and %s", unit, m.property(unit, "UnitFileState"), m.property(unit, "ActiveState"))
			}
		}
		m.run("systemctl", "enable", "--now", "gatewarden.service")
		m.trusted()
	}
}

func removed(files ...string) func(*machine) {
	return func(m *machine) {
		device := m.device()
		m.run("dpkg", "--remove", "gatewarden", "gatewarden-fleet")
		if processes := m.run("sh", "-c", "ls -l /proc/[0-9]*/exe; true"); strings.Contains(processes, "/usr/bin/gatewarden") {
			m.t.Errorf("still running: %s", processes)
		}
		for _, path := range []string{"var/lib/gatewarden/format.json", "var/lib/gatewarden-fleet/registry.db", "etc/gatewarden/trust/fleet.json", "etc/gatewarden/agent.toml"} {
			if _, err := os.Stat(filepath.Join(m.root, path)); err != nil {
				m.t.Error(err)
			}
		}
		m.install(files...)
		m.trusted()
		if m.device() != device {
			m.t.Errorf("the gateway became %s", m.device())
		}
	}
}

func purged(m *machine, before []string) {
	if len(added(before, m.files())) < 20 {
		m.t.Error("hardly anything is there to be removed")
	}
	said := m.run("dpkg", "--purge", "gatewarden", "gatewarden-fleet")
	for _, name := range []string{"/var/lib/gatewarden, /var/lib/gatewarden-helper", "/var/lib/gatewarden-fleet"} {
		if !strings.Contains(said, name) {
			m.t.Errorf("it does not say that %s goes:\n%s", name, said)
		}
	}
	for _, path := range added(before, m.files()) {
		m.t.Errorf("left behind: %s", path)
	}
	if _, err := m.try("stat", "/run/gatewarden"); err == nil {
		m.t.Error("left behind: /run/gatewarden")
	}
}

// added returns what is in after alone; both are sorted.
func added(before, after []string) []string {
	var more []string
	for _, path := range after {
		if _, found := slices.BinarySearch(before, path); !found {
			more = append(more, path)
		}
	}
	return more
}

// files lists the machine's files, sorted, but for what its own systemd and dpkg
// write: the list of users, logs, records.
func (m *machine) files() []string {
	m.t.Helper()
	own := regexp.MustCompile(`^(run|tmp|proc|sys|dev|var/log|var/tmp|var/cache|var/lib/dpkg|var/lib/systemd/(timers|timesync|random-seed|catalog|coredump|linger)|etc/(passwd|group|shadow|gshadow|subuid|subgid)-?|etc/\.(pwd|updated).*|var/\.updated)(/|$)`)
	var list []string
	err := filepath.WalkDir(m.root, func(path string, d fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(m.root, path)
		if err != nil || relErr != nil {
			return nil // it went away meanwhile
		}
		if own.MatchString(rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		list = append(list, rel)
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	slices.Sort(list)
	return list
}
