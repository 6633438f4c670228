package broker

import (
	"strings"

	"github.com/gatewarden/gatewarden/internal/wire"
)

// knownIdentity: only these have topics.
func knownIdentity(identity string) bool {
	if identity == wire.FleetIdentity {
		return true
	}
	_, _, ok := wire.DeviceOf(identity)
	return ok
}

// mayPublish decides about one topic (docs/protocol.md, "Topics").
func mayPublish(identity, topic string) bool {
	if len(topic) > wire.MaxTopic {
		return false
	}
	if identity == wire.FleetIdentity {
		to, kind, ok := wire.ParseDown(topic)
		return ok && downKind(kind) && to != wire.FleetIdentity && knownIdentity(to)
	}
	from, kind, ok := wire.ParseUp(topic)
	return ok && from == identity && upKind(kind)
}

// mayReceive decides about one message on its way to identity.
func mayReceive(identity, topic string) bool {
	if identity == wire.FleetIdentity {
		_, kind, ok := wire.ParseUp(topic)
		return ok && upKind(kind)
	}
	to, kind, ok := wire.ParseDown(topic)
	return ok && to == identity && downKind(kind)
}

// maySubscribe decides about a filter. Devices share nothing.
func maySubscribe(identity, filter string) bool {
	if len(filter) > wire.MaxTopic {
		return false
	}
	if identity == wire.FleetIdentity {
		filter = strings.TrimPrefix(filter, "$share/fleet/")
		from, kind, ok := wire.ParseUp(filter)
		return ok && (from == "+" || knownIdentity(from)) && (kind == "+" || upKind(kind))
	}
	to, kind, ok := wire.ParseDown(filter)
	return ok && to == identity && (kind == "+" || kind == "#" || downKind(kind))
}

func upKind(kind wire.Kind) bool {
	switch kind {
	case wire.KindHello, wire.KindEvidence, wire.KindHealth, wire.KindEvent, wire.KindReceipt, wire.KindLinkTest,
		wire.KindUpdate:
		return true
	}
	return false
}

func downKind(kind wire.Kind) bool {
	switch kind {
	case wire.KindChallenge, wire.KindVerdict, wire.KindAck, wire.KindCommand:
		return true
	}
	return false
}
