package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// rules holds every decision about a client; the library asks at each step.
type rules struct {
	mqtt.HookBase
	cfg    Config
	server *mqtt.Server
	ctx    context.Context // of Serve

	mu       sync.Mutex
	clashes  map[*mqtt.Client]packets.Packet // see ids.go
	expiry   map[*mqtt.Client]*time.Timer
	arriving map[*conn]*arrival
}

// arrival is a client between OnConnect and OnSessionEstablished, when Drop
// can't find it among the clients.
type arrival struct {
	identity string
	dropped  bool
}

func newRules(cfg Config) *rules {
	return &rules{
		cfg: cfg, clashes: map[*mqtt.Client]packets.Packet{},
		expiry: map[*mqtt.Client]*time.Timer{}, arriving: map[*conn]*arrival{},
	}
}

// ID names the hook in the library's log.
func (r *rules) ID() string { return "rules" }

// Provides says which questions the library must ask.
func (r *rules) Provides(b byte) bool {
	switch b {
	case mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnSessionEstablish,
		mqtt.OnSessionEstablished, mqtt.OnPublish, mqtt.OnWill, mqtt.OnDisconnect, mqtt.OnClientExpired, mqtt.OnPacketRead, mqtt.OnPacketProcessed:
		return true
	}
	return false
}

// OnConnect decides whether a client may come in. The answer says only that it
// may not; the log says why.
func (r *rules) OnConnect(cl *mqtt.Client, pk packets.Packet) error {
	r.arrive(cl)
	if err := r.admit(cl); err != nil {
		r.cfg.Log.Warn("client refused", "identity", cl.ID, "remote", cl.Net.Remote, "error", err)
		_ = r.server.SendConnack(cl, packets.ErrNotAuthorized, false, nil)
		return packets.ErrNotAuthorized
	}
	if most := uint16(r.cfg.Limits.KeepAlive / time.Second); cl.State.Keepalive == 0 || cl.State.Keepalive > most {
		cl.State.Keepalive, cl.State.ServerKeepalive = most, true
	}
	// A delayed will lies where Drop can't reach it.
	cl.Properties.Will.WillDelayInterval = 0
	return nil
}

func (r *rules) admit(cl *mqtt.Client) error {
	peer := peerOf(cl)
	if peer == nil {
		return errors.New("no verified certificate")
	}
	if cl.ID == "" || cl.ID != peer.Subject.CommonName {
		return fmt.Errorf("client id is not the certificate's identity %q", peer.Subject.CommonName)
	}
	if !knownIdentity(cl.ID) {
		return errors.New("certificate is no device's and not the fleet's")
	}
	if will := &cl.Properties.Will; atomic.LoadUint32(&will.Flag) != 0 && (will.Retain || !mayPublish(cl.ID, will.TopicName)) {
		return errors.New("will is retained or on a foreign topic")
	}
	return r.cfg.Authorize(r.ctx, cl.ID, fmt.Sprintf("%x", peer.SerialNumber), peer)
}

// OnConnectAuthenticate comes after OnConnect, which did the work; this holds
// the one property that all topics rest on if the order ever changes.
func (r *rules) OnConnectAuthenticate(cl *mqtt.Client, _ packets.Packet) bool {
	peer := peerOf(cl)
	return peer != nil && cl.ID != "" && cl.ID == peer.Subject.CommonName
}

// OnACLCheck decides about a topic to publish on or a filter to subscribe to.
func (r *rules) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	if write {
		return mayPublish(cl.ID, topic)
	}
	return maySubscribe(cl.ID, topic)
}

// OnPublish refuses messages that the broker would have to keep.
func (r *rules) OnPublish(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if !pk.FixedHeader.Retain {
		return pk, nil
	}
	if pk.FixedHeader.Qos == 0 { // any other error would let it pass
		return pk, packets.ErrRejectPacket
	}
	return pk, packets.ErrRetainNotSupported
}

// OnWill checks again when the will is due: the library does not.
func (r *rules) OnWill(cl *mqtt.Client, will mqtt.Will) (mqtt.Will, error) {
	will.Retain = false
	if !mayPublish(cl.ID, will.TopicName) || atomic.LoadUint32(&cl.Properties.Will.Flag) == 0 {
		return mqtt.Will{}, nil // a topic that nobody can subscribe to
	}
	return will, nil
}

// OnSessionEstablish runs before a session is taken over: what waits in it is
// checked like a new message, and the connection ends with its certificate.
func (r *rules) OnSessionEstablish(cl *mqtt.Client, _ packets.Packet) {
	if old, ok := r.server.Clients.Get(cl.ID); ok {
		for _, pk := range old.State.Inflight.GetAll(false) {
			if pk.FixedHeader.Type == packets.Publish && !mayReceive(cl.ID, pk.TopicName) {
				old.State.Inflight.Delete(pk.PacketID)
			}
		}
	}
	if peer := peerOf(cl); peer != nil {
		timer := time.AfterFunc(time.Until(peer.NotAfter), func() {
			_ = r.server.DisconnectClient(cl, packets.ErrNotAuthorized)
		})
		r.mu.Lock()
		r.expiry[cl] = timer
		r.mu.Unlock()
	}
}

// OnSessionEstablished ends what was dropped while it came in.
func (r *rules) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	if c, ok := cl.Net.Conn.(*conn); ok && r.leave(c) {
		r.drop(cl)
	}
}

func (r *rules) arrive(cl *mqtt.Client) {
	if c, ok := cl.Net.Conn.(*conn); ok {
		r.mu.Lock()
		r.arriving[c] = &arrival{identity: cl.ID}
		r.mu.Unlock()
	}
}

// leave ends the arrival of c and reports whether it was dropped meanwhile.
func (r *rules) leave(c *conn) (dropped bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.arriving[c]
	delete(r.arriving, c)
	return ok && a.dropped
}

// markArriving has those that come in as identity dropped when they are in.
func (r *rules) markArriving(identity string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.arriving {
		a.dropped = a.dropped || a.identity == identity
	}
}

// drop ends a client with all that is kept for it. The will goes first: ending
// the connection would publish it.
func (r *rules) drop(cl *mqtt.Client) {
	atomic.StoreUint32(&cl.Properties.Will.Flag, 0)
	_ = r.server.DisconnectClient(cl, packets.ErrAdministrativeAction)
	cl.ClearInflights()
	r.server.UnsubscribeClient(cl)
	if now, ok := r.server.Clients.Get(cl.ID); ok && now == cl {
		r.server.Clients.Delete(cl.ID)
	}
	r.cfg.Log.Info("client dropped", "identity", cl.ID)
}

// OnDisconnect lets go of what belongs to the connection.
func (r *rules) OnDisconnect(cl *mqtt.Client, _ error, _ bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if timer, ok := r.expiry[cl]; ok {
		timer.Stop()
	}
	delete(r.expiry, cl)
	delete(r.clashes, cl)
}

// OnClientExpired removes subscriptions, which the library leaves behind.
func (r *rules) OnClientExpired(cl *mqtt.Client) { r.server.UnsubscribeClient(cl) }

// peerOf returns the verified leaf of a client's connection.
func peerOf(cl *mqtt.Client) *x509.Certificate {
	c, ok := cl.Net.Conn.(*conn)
	if !ok {
		return nil
	}
	return leaf(c.tls.ConnectionState())
}

func leaf(state tls.ConnectionState) *x509.Certificate {
	if !state.HandshakeComplete || len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return nil
	}
	return state.VerifiedChains[0][0]
}

var _ mqtt.Hook = (*rules)(nil)
