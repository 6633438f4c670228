package seal_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/gatewarden/gatewarden/internal/tpmpolicy"
	"github.com/gatewarden/gatewarden/tpm"
	"github.com/gatewarden/gatewarden/tpm/seal"
	"github.com/gatewarden/gatewarden/tpm/tpmtest"
)

// attack is what somebody tries who has the file, all published signatures and the
// chip, and asks the chip himself. Fields that are zero leave a step out.
type attack struct {
	signed  tpmpolicy.Signed
	ref     []byte // for which the signature is verified
	claim   []byte // that PolicyAuthorize is told, if another
	value   *uint64
	pcr7    bool
	passing bool // as the rightful device would
}

// try returns what the chip gave, or the error of the first command that refuses.
func (g *gateway) try(blob []byte, a attack) (got []byte, err error) {
	g.t.Helper()
	var file struct {
		Header struct {
			Storage struct {
				Name  seal.Hex `json:"name"`
				Place uint32   `json:"place"`
			} `json:"storage"`
		} `json:"header"`
		Public, Private []byte
	}
	if err := json.Unmarshal(blob, &file); err != nil {
		g.t.Fatal(err)
	}
	err = g.chip.Do(context.Background(), "attack", func(c *tpm.Chip) error {
		parent, err := c.StorageNamed(file.Header.Storage.Name, file.Header.Storage.Place)
		if err != nil {
			g.t.Fatal(err)
		}
		public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](file.Public)
		if err != nil {
			g.t.Fatal(err)
		}
		private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](file.Private)
		if err != nil {
			g.t.Fatal(err)
		}
		session, _, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16)
		if err != nil {
			g.t.Fatal(err)
		}
		defer c.Flush(session.Handle())
		if err := g.steps(c, session.Handle(), a); err != nil {
			return err
		}
		area, err := public.Contents()
		if err != nil {
			g.t.Fatal(err)
		}
		name, err := tpm2.ObjectName(area)
		if err != nil {
			g.t.Fatal(err)
		}
		object, err := c.Load(func() (tpm2.TPMHandle, error) {
			rsp, err := tpm2.Load{ParentHandle: tpm2.AuthHandle{Handle: parent.Handle.Handle, Name: parent.Handle.Name, Auth: tpm2.PasswordAuth(nil)}, InPublic: *public, InPrivate: *private}.Execute(c)
			if err != nil {
				return 0, err
			}
			return rsp.ObjectHandle, nil
		})
		if err != nil {
			g.t.Fatal(err)
		}
		if _, err := (tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: object, Name: *name, Auth: tpm2.PasswordAuth(nil)}}).Execute(c); err == nil {
			g.t.Error("it opens with an empty password")
		}
		rsp, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: object, Name: *name, Auth: session}}.Execute(c)
		if err == nil {
			got = rsp.OutData.Buffer
		}
		return err
	})
	return got, err
}

// steps are the policy commands, in the order of the real thing.
func (g *gateway) steps(c *tpm.Chip, session tpm2.TPMHandle, a attack) error {
	if err := policyPCR(c, session, 4, 11, 12, 13); err != nil {
		return err
	}
	if a.signed.PCRs != nil {
		if err := g.authorize(c, session, a); err != nil {
			return err
		}
	}
	if a.value != nil {
		index := tpm2.NamedHandle{Handle: tpm2.TPMHandle(g.record.Index), Name: tpm2.TPM2BName{Buffer: g.record.Name()}}
		_, err := tpm2.PolicyNV{
			AuthHandle: tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: tpm2.PasswordAuth(nil)}, NVIndex: index,
			PolicySession: session, OperandB: tpm2.TPM2BOperand{Buffer: binary.BigEndian.AppendUint64(nil, *a.value)}, Operation: tpm2.TPMEOEq,
		}.Execute(c)
		if err != nil {
			return err
		}
	}
	if a.pcr7 {
		return policyPCR(c, session, 7)
	}
	return nil
}

func (g *gateway) authorize(c *tpm.Chip, session tpm2.TPMHandle, a attack) error {
	data, err := tpmpolicy.PublicArea(g.key.Public())
	if err != nil {
		g.t.Fatal(err)
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](data)
	if err != nil {
		g.t.Fatal(err)
	}
	key, err := c.Load(func() (tpm2.TPMHandle, error) {
		rsp, err := tpm2.LoadExternal{InPublic: tpm2.New2B(*area), Hierarchy: tpm2.TPMRHOwner}.Execute(c)
		if err != nil {
			return 0, err
		}
		return rsp.ObjectHandle, nil
	})
	if err != nil {
		g.t.Fatal(err)
	}
	r, s := ecdsaParts(g.t, a.signed.Signature)
	rsp, err := tpm2.VerifySignature{
		KeyHandle: tpm2.NamedHandle{Handle: key, Name: tpm2.TPM2BName{Buffer: tpmpolicy.Name(data)}},
		Digest:    tpm2.TPM2BDigest{Buffer: a.signed.Digest(a.ref)},
		Signature: tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s},
		})},
	}.Execute(c)
	if err != nil {
		return err
	}
	claim := a.ref
	if a.claim != nil {
		claim = a.claim
	}
	_, err = tpm2.PolicyAuthorize{
		PolicySession: session, ApprovedPolicy: tpm2.TPM2BDigest{Buffer: a.signed.Policy[:]}, PolicyRef: tpm2.TPM2BDigest{Buffer: claim},
		KeySign: tpm2.TPM2BName{Buffer: tpmpolicy.Name(data)}, CheckTicket: rsp.Validation,
	}.Execute(c)
	return err
}

func policyPCR(c transport.TPM, session tpm2.TPMHandle, pcrs ...uint) error {
	_, err := tpm2.PolicyPCR{PolicySession: session, Pcrs: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)},
	}}}.Execute(c)
	return err
}

// TestTheChipItselfRefuses: none of our own checks is needed to keep a secret shut.
func TestTheChipItselfRefuses(t *testing.T) {
	good := release("1")
	g := newGateway(t, good)
	g.raise(1)
	blob := g.seal(g.policy(2))
	refOf := func(epoch uint64) []byte {
		d, err := ref(epoch).Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d[:]
	}
	now := g.record.Initial + 1
	older, right := approve(t, g.key, ref(1), good), approve(t, g.key, ref(2), good)
	bare, err := tpmpolicy.ApproveWithoutRef(g.key, good.values(ref(2).PCRs))
	if err != nil {
		t.Fatal(err)
	}
	attacks := map[string]attack{
		"the rightful way":         {signed: right, ref: refOf(2), value: &now, pcr7: true, passing: true},
		"older epoch's signature":  {signed: older, ref: refOf(1), value: &now, pcr7: true},
		"signature of another ref": {signed: older, ref: refOf(2), value: &now, pcr7: true},
		"ticket for another ref":   {signed: older, ref: refOf(1), claim: refOf(2), value: &now, pcr7: true},
		"signature for systemd":    {signed: bare, value: &now, pcr7: true},
		"no counter":               {signed: right, ref: refOf(2), pcr7: true},
		"no Secure Boot state":     {signed: right, ref: refOf(2), value: &now},
		"no signature":             {value: &now, pcr7: true},
		"nothing":                  {},
	}
	for name, a := range attacks {
		got, err := g.try(blob, a)
		if (err == nil) != a.passing {
			t.Errorf("%s: %v", name, err)
		}
		if a.passing && !g.opensBox(blob, got) { // else the tests of the bus would prove nothing
			t.Errorf("%s: the key does not open the box", name)
		}
	}
	for name, b := range map[string]boot{
		"another command line": good.with(12, "x"), "another program": good.with(4, "evil.efi"), "another extension": good.with(13, "x"),
		"PCR 11 replayed only": {7: good[7], 11: good[11]}, "Secure Boot off": good.with(7, "off"),
	} {
		g.boot(b)
		if _, err := g.try(blob, attacks["the rightful way"]); err == nil {
			t.Errorf("%s: it opened", name)
		}
	}
	g.boot(good)
	if _, err := g.try(blob, attacks["the rightful way"]); err != nil {
		t.Errorf("the right boot again: %v", err)
	}
	g.raise(2)
	later := now + 1
	for name, value := range map[string]*uint64{"the old value": &now, "the new value": &later} {
		if _, err := g.try(blob, attack{signed: right, ref: refOf(2), value: value, pcr7: true}); err == nil {
			t.Errorf("after the raise it opened with %s", name)
		}
	}
}

// TestAlteredFileNeverOpens: any changed field, however it is changed.
func TestAlteredFileNeverOpens(t *testing.T) {
	g := newGateway(t, release("1"))
	p := g.policy(1)
	p.Unit = "vpn.service"
	blob, signed := g.seal(p), g.approve(1, release("1"))
	g.opens(blob, signed)
	step := len(blob) / 150
	for i := 0; i < len(blob); i += step {
		altered := bytes.Clone(blob)
		altered[i] ^= 1
		if bytes.Equal(compact(altered), compact(blob)) {
			continue // white space
		}
		secret, err := seal.Unseal(context.Background(), g.chip, altered, signed)
		if err == nil || secret != nil {
			t.Errorf("byte %d (%q) altered, and it opened", i, blob[i])
		}
		if !errors.Is(err, tpm.ErrDamaged) && !errors.Is(err, tpm.ErrPolicy) && !errors.Is(err, tpm.ErrReplaced) {
			t.Errorf("byte %d (%q): %v", i, blob[i], err)
		}
	}
	// Another unit, put in by somebody who knows the format.
	if _, err := seal.Unseal(context.Background(), g.chip, bytes.Replace(blob, []byte("vpn.service"), []byte("ssh.service"), 1), signed); !errors.Is(err, tpm.ErrDamaged) {
		t.Errorf("another unit: %v", err)
	}
}

func compact(data []byte) []byte {
	var out bytes.Buffer
	if json.Compact(&out, data) != nil {
		return nil
	}
	return out.Bytes()
}

// TestSecretNeverCrossesTheBusInClear, nor does the key that the chip seals.
func TestSecretNeverCrossesTheBusInClear(t *testing.T) {
	g := newGateway(t, release("1"))
	var bus bytes.Buffer
	var creates, unseals [][]byte
	record := func(to *[][]byte) tpmtest.Fault {
		return func(next transport.TPM, command []byte) ([]byte, error) {
			response, err := next.Send(command)
			bus.Write(command)
			bus.Write(response)
			*to = append(*to, response)
			return response, err
		}
	}
	g.faults.On(tpm2.TPMCCCreate, -1, record(&creates))
	g.faults.On(tpm2.TPMCCUnseal, -1, record(&unseals))
	blob := g.seal(g.policy(1))
	g.opens(blob, g.approve(1, release("1")))
	if bytes.Contains(bus.Bytes(), []byte("the secret")) {
		t.Error("the secret was on the bus")
	}
	if len(creates) != 1 || len(unseals) != 1 {
		t.Fatalf("%d creates, %d unseals", len(creates), len(unseals))
	}
	// header, size of parameters, then TPM2B of 32 bytes: were it in clear, it would open the box.
	answer := unseals[0][10+4+2:][:32]
	if g.opensBox(blob, answer) {
		t.Error("the key was on the bus in clear")
	}
}

// TestAlteredTrafficIsNoticed: whoever sits on the bus may refuse, but not lie.
func TestAlteredTrafficIsNoticed(t *testing.T) {
	g := newGateway(t, release("1"))
	blob, signed := g.seal(g.policy(1)), g.approve(1, release("1"))
	for at := 10; at < 80; at += 7 {
		g.faults.On(tpm2.TPMCCUnseal, 1, tpmtest.Alter(func(response []byte) []byte {
			if at < len(response) {
				response[at] ^= 1
			}
			return response
		}))
		if secret, err := seal.Unseal(context.Background(), g.chip, blob, signed); err == nil {
			t.Errorf("byte %d altered: opened to %q", at, secret)
		}
	}
	g.faults.Clear()
	for at := 10; at < 400; at += 30 {
		g.faults.On(tpm2.TPMCCCreate, 1, tpmtest.Alter(func(response []byte) []byte {
			if at < len(response) {
				response[at] ^= 1
			}
			return response
		}))
		if _, err := seal.Seal(context.Background(), g.chip, []byte("x"), g.policy(1)); err == nil {
			t.Errorf("byte %d altered: sealed", at)
		}
	}
}
