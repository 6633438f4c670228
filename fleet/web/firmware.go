package web

import (
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/fleet/registry"
)

// proposalView is firmware that an operator has to decide about.
type proposalView struct {
	Key, Model, Share, Command string
	Href                       string // gateways of the model
	First                      string // device that showed it first
	Mark                       mark
	Text                       prose
	At                         moment
}

func viewProposals(proposals []registry.Proposal, now time.Time) []proposalView {
	var out []proposalView
	for i, p := range proposals {
		v := proposalView{
			Key: fmt.Sprintf("f%d", i), Model: plain(p.Model), Href: href(registry.Filter{Model: p.Model}), First: p.FirstDevice, Mark: severityMark(registry.Warning),
			Text: proseOf(p.Text), At: at(p.First, now), Command: fmt.Sprintf("gatewarden-fleet firmware approve %.16s --name NAME", p.Hash),
			Share: fmt.Sprintf("%d of %s with a certified TPM now measure this", p.Devices, count(p.Of, "gateway")),
		}
		if p.Others > 0 {
			v.Share += fmt.Sprintf(", and %d without", p.Others)
		}
		out = append(out, v)
	}
	return out
}
