// Package mqttconn is one MQTT 5 connection over TLS 1.3, made for senders that
// keep their messages themselves until the other end has taken them in.
//
// Its promise: nothing is queued here. A message is handed to the connection or
// an error says that it was not; when the connection ends, Done is closed and
// Err says why. Nothing that a broker sends makes it allocate more than one
// packet of Options.MaxPacket.
package mqttconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"
)

// ErrTooLong is returned for a topic or payload over the limits: MQTT strings
// carry a length of 16 bits (MQTT 5, 1.5.4), and what is longer gets cut
// silently by encoders.
var ErrTooLong = errors.New("topic or payload is too long")

// Message is one publication.
type Message struct {
	Topic    string
	Payload  []byte
	Retained bool          // received: the broker had kept it; never sent
	QoS      byte          // 0 or 1; only for sending
	Expiry   time.Duration // for sending; 0: the broker keeps it as long as the session
}

// Options of one connection. All are required but those that say otherwise.
type Options struct {
	URL           string      // mqtts://host:port
	TLS           *tls.Config // ServerName defaults to URL's host
	ClientID      string
	KeepAlive     time.Duration // whole seconds
	SessionExpiry time.Duration // how long the broker keeps the session without a connection
	Clean         bool          // Clean Start: what the broker has kept for ClientID ends
	Timeout       time.Duration // for connecting, and for each answer of the broker
	MaxTopic      int           // bytes
	MaxPayload    int           // bytes
	MaxPacket     int           // bytes of one received packet
	// Ahead is how many messages the broker may send before we acknowledge them
	// (MQTT 5, 3.1.2.11.3); 0 means 65,535, for which half a megabyte is set aside.
	Ahead uint16

	// OnMessage gets each message, one at a time and in order; while it runs the
	// connection delivers nothing more.
	OnMessage func(Message)
	// OnRejected is told of each Send that the broker answered with an error
	// (MQTT 5, 3.4.2.1). May be nil.
	OnRejected func(code byte, reason string)
}

// Conn is an open connection. Safe for concurrent use.
type Conn struct {
	opts   Options
	client *paho.Client
	state  *session

	mu     sync.Mutex
	cause  error // the first reason why the connection ended
	done   chan struct{}
	closed sync.Once
}

// Dial connects. A broker that understands but refuses is a *Refused.
func Dial(ctx context.Context, o Options) (*Conn, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	c := &Conn{opts: o, done: make(chan struct{})}
	raw, err := c.dialTLS(ctx)
	if err != nil {
		return nil, classify(fmt.Errorf("dial broker: %w", err))
	}
	c.state = &session{State: state.NewInMemory(), conn: c}
	c.client = paho.NewClient(paho.ClientConfig{
		ClientID:          o.ClientID,
		Conn:              packets.NewThreadSafeConn(raw),
		Session:           c.state,
		PacketTimeout:     o.Timeout,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){c.received},
		OnClientError:     c.ended,
	})
	ack, err := c.client.Connect(ctx, o.connect())
	if err != nil {
		_ = raw.Close()
		_ = c.state.Close()
		if ack != nil && ack.ReasonCode >= packets.ConnackUnspecifiedError {
			return nil, &Refused{Code: ack.ReasonCode, Reason: connackText(ack)}
		}
		return nil, classify(fmt.Errorf("connect to broker: %w", err))
	}
	go c.wait()
	return c, nil
}

func (o *Options) check() error {
	switch {
	case o.TLS == nil, o.OnMessage == nil:
		return errors.New("open connection: TLS and OnMessage are required")
	case o.Timeout <= 0, o.KeepAlive < time.Second, o.KeepAlive > math.MaxUint16*time.Second, o.SessionExpiry <= 0:
		return errors.New("open connection: Timeout, KeepAlive or SessionExpiry is out of range")
	case o.MaxTopic <= 0, o.MaxPayload <= 0, o.MaxPacket <= 0:
		return errors.New("open connection: MaxTopic, MaxPayload and MaxPacket are required")
	case o.ClientID == "", len(o.ClientID) > o.MaxTopic:
		return fmt.Errorf("open connection: client id: %w", ErrTooLong)
	}
	return nil
}

func (o *Options) connect() *paho.Connect {
	expiry := uint32(min(o.SessionExpiry/time.Second, math.MaxUint32))
	size := uint32(o.MaxPacket)
	c := &paho.Connect{
		ClientID:   o.ClientID,
		KeepAlive:  uint16(o.KeepAlive / time.Second),
		CleanStart: o.Clean,
		Properties: &paho.ConnectProperties{SessionExpiryInterval: &expiry, MaximumPacketSize: &size, RequestProblemInfo: true},
	}
	if o.Ahead > 0 {
		c.Properties.ReceiveMaximum = &o.Ahead
	}
	return c
}

func (c *Conn) dialTLS(ctx context.Context) (net.Conn, error) {
	u, err := url.Parse(c.opts.URL)
	if err != nil || u.Scheme != "mqtts" || u.Host == "" {
		return nil, fmt.Errorf("broker address %q is not mqtts://host:port", c.opts.URL)
	}
	config := c.opts.TLS.Clone()
	config.MinVersion = tls.VersionTLS13
	if config.ServerName == "" {
		config.ServerName = u.Hostname()
	}
	// The session's keep-alive finds a dead peer; probes of the kernel would
	// only wake the radio.
	dialer := &tls.Dialer{NetDialer: &net.Dialer{KeepAlive: -1}, Config: config}
	raw, err := dialer.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	return &limitedConn{Conn: raw, limit: c.opts.MaxPacket, failed: c.ended}, nil
}

// Subscribe asks for filters at QoS 1 and returns when the broker granted all.
func (c *Conn) Subscribe(ctx context.Context, filters ...string) error {
	s := &paho.Subscribe{}
	for _, f := range filters {
		if len(f) > c.opts.MaxTopic {
			return fmt.Errorf("subscribe: %w", ErrTooLong)
		}
		s.Subscriptions = append(s.Subscriptions, paho.SubscribeOptions{Topic: f, QoS: 1, RetainHandling: 2})
	}
	if _, err := c.client.Subscribe(ctx, s); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	return nil
}

// Publish hands m to the broker and waits until the broker has it (QoS 1).
func (c *Conn) Publish(ctx context.Context, m Message) error {
	p, err := c.packet(m)
	if err != nil {
		return err
	}
	response, err := c.client.Publish(ctx, p)
	if response != nil && response.ReasonCode >= packets.PubackUnspecifiedError {
		return &Refused{Code: response.ReasonCode, Reason: codeText(response.ReasonCode)}
	}
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// Send hands m to the connection without waiting for the broker's answer.
func (c *Conn) Send(ctx context.Context, m Message) error {
	p, err := c.packet(m)
	if err != nil {
		return err
	}
	if _, err := c.client.PublishWithOptions(ctx, p, paho.PublishOptions{Method: paho.PublishMethod_AsyncSend}); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

func (c *Conn) packet(m Message) (*paho.Publish, error) {
	if len(m.Topic) > c.opts.MaxTopic || len(m.Payload) > c.opts.MaxPayload {
		return nil, fmt.Errorf("publish %d bytes on a topic of %d: %w", len(m.Payload), len(m.Topic), ErrTooLong)
	}
	p := &paho.Publish{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS}
	if m.Expiry > 0 {
		seconds := uint32(min(max(m.Expiry/time.Second, 1), math.MaxUint32))
		p.Properties = &paho.PublishProperties{MessageExpiry: &seconds}
	}
	return p, nil
}

func (c *Conn) received(p paho.PublishReceived) (bool, error) {
	c.opts.OnMessage(Message{Topic: p.Packet.Topic, Payload: p.Packet.Payload, Retained: p.Packet.Retain})
	return true, nil
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the connection ended; nil while it is open and after Close.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(c.cause, errClosed) {
		return nil
	}
	return c.cause
}

// Close takes leave of the broker, which keeps the session.
func (c *Conn) Close() {
	c.closed.Do(func() {
		c.ended(errClosed)
		_ = c.client.Disconnect(&paho.Disconnect{})
	})
	<-c.done
}

var errClosed = errors.New("closed here")

func (c *Conn) ended(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = classify(err)
	}
}

func (c *Conn) wait() {
	<-c.client.Done()
	_ = c.state.Close()
	c.ended(errors.New("connection lost"))
	close(c.done)
}
