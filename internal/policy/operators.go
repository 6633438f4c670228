package policy

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/internal/sshsig"
	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// The verbs that this release knows.
const (
	VerbPing     = "ping"
	VerbAttest   = "attest"
	VerbRotate   = "rotate"
	VerbLinkTest = "link-test"
	VerbReboot   = "reboot"
)

// Verbs lists what an operator may be granted.
func Verbs() []string { return []string{VerbPing, VerbAttest, VerbRotate, VerbLinkTest, VerbReboot} }

// Operators is trust/operators.json: who may have a device do what. Only one that
// ParseOperators returned authorises anything. It is not changed after that, and
// safe for concurrent use.
type Operators struct {
	Version int              `json:"v"` // 1
	Issued  time.Time        `json:"issued"`
	Fleet   string           `json:"fleet"`
	People  []Person         `json:"people"`
	Verbs   map[string]Grant `json:"verbs"`

	holders map[string]string // key in authorized_keys form -> person's name
}

// Person is one human being with all of their keys.
type Person struct {
	Name string   `json:"name"` // 1 to 64 of [A-Za-z0-9._@-]
	Keys []string `json:"keys"` // lines of authorized_keys, without options
}

// Grant says that Threshold different ones of People together may use a verb.
type Grant struct {
	People    []string `json:"people"`
	Threshold int      `json:"threshold"`
}

// ParseOperators reads trust/operators.json. A verb that this release doesn't
// know grants nothing here; refusing the document for it would keep a device that
// is behind from learning whom its fleet no longer trusts.
func ParseOperators(data []byte) (*Operators, error) {
	if len(data) > MaxDocument {
		return nil, fmt.Errorf("read operators document: longer than %d bytes", MaxDocument)
	}
	var o Operators
	if err := strictjson.Unmarshal(data, &o); err != nil {
		return nil, fmt.Errorf("read operators document: %w", err)
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("check operators document: %w", err)
	}
	return &o, nil
}

func (o *Operators) check() error {
	if err := checkHead(o.Version, o.Issued, o.Fleet); err != nil {
		return err
	}
	if len(o.People) > maxPeople || len(o.Verbs) > maxVerbs {
		return fmt.Errorf("%d people and %d verbs, more than %d and %d", len(o.People), len(o.Verbs), maxPeople, maxVerbs)
	}
	o.holders = make(map[string]string)
	names := make(map[string]bool)
	for _, p := range o.People {
		if !matches(`^[A-Za-z0-9._@-]{1,64}$`, p.Name) {
			return fmt.Errorf("person's name %.80q is not 1 to 64 of letters, digits and ._@-", p.Name)
		}
		if names[p.Name] {
			return fmt.Errorf("person %s is listed twice", p.Name)
		}
		names[p.Name] = true
		if err := o.addKeys(p); err != nil {
			return err
		}
	}
	for _, verb := range slices.Sorted(maps.Keys(o.Verbs)) {
		if !matches(`^[a-z][a-z0-9-]{0,31}$`, verb) {
			return fmt.Errorf("verb %.40q is not 1 to 32 of a-z, 0-9 and -", verb)
		}
		if err := o.Verbs[verb].check(names); err != nil {
			return fmt.Errorf("verb %s: %w", verb, err)
		}
	}
	return nil
}

// addKeys notes whose the keys are. A key under two people would count twice
// towards a threshold.
func (o *Operators) addKeys(p Person) error {
	if n := len(p.Keys); n == 0 || n > maxKeysEach {
		return fmt.Errorf("person %s has %d keys, not 1 to %d", p.Name, n, maxKeysEach)
	}
	for i, line := range p.Keys {
		key, err := sshsig.ParseAuthorizedKey(line)
		if err != nil {
			return fmt.Errorf("key %d of %s: %w", i+1, p.Name, err)
		}
		if holder, taken := o.holders[key.String()]; taken {
			return fmt.Errorf("key %d of %s is a key of %s already", i+1, p.Name, holder)
		}
		o.holders[key.String()] = p.Name
	}
	return nil
}

func (g Grant) check(names map[string]bool) error {
	if g.Threshold < 1 || g.Threshold > len(g.People) {
		return fmt.Errorf("threshold is %d, not 1 to the number of people, %d", g.Threshold, len(g.People))
	}
	for i, name := range g.People {
		if !names[name] {
			return fmt.Errorf("%.80q is not in people", name)
		}
		if slices.Contains(g.People[:i], name) {
			return fmt.Errorf("%s is named twice", name)
		}
	}
	return nil
}
