package link

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/internal/mqttconn"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// errReconnect ends a session because Reconnect was called.
var errReconnect = errors.New("credentials changed")

// session is one connection from beginning to end.
func (l *Link) session(ctx context.Context, turn int) error {
	d, err := l.open(ctx, turn)
	if err != nil {
		return err
	}
	defer d.conn.Close()
	defer l.setConn(nil)
	if err := d.conn.Subscribe(ctx, wire.DownTopic(d.identity, "+")); err != nil {
		return endOf(d.conn, err)
	}
	l.setConn(d.conn)
	if err := l.Publish(ctx, wire.KindHello, l.cfg.Hello()); err != nil {
		return endOf(d.conn, err)
	}
	l.cfg.Log.Info("connected", "identity", d.identity, "pending", l.cfg.Outbox.Pending())
	return d.run(ctx, l.wake)
}

// open dials the broker whose turn it is, as who we are now.
func (l *Link) open(ctx context.Context, turn int) (*drain, error) {
	config, identity, err := l.cfg.TLS()
	if err != nil {
		return nil, fmt.Errorf("get credentials: %w", err)
	}
	brokers := l.cfg.Brokers()
	if len(brokers) == 0 {
		return nil, errors.New("no address of a broker is known")
	}
	address := brokers[turn%len(brokers)]
	l.mu.Lock()
	l.status.Identity, l.status.Broker = identity, address
	l.mu.Unlock()
	d := &drain{outbox: l.cfg.Outbox, identity: identity, log: l.cfg.Log, acks: newAckBox(), resend: resendFirst}
	d.conn, err = mqttconn.Dial(ctx, mqttconn.Options{
		URL: address, TLS: config, ClientID: identity,
		KeepAlive: keepAlive, SessionExpiry: sessionExpiry, Timeout: answerTimeout,
		MaxTopic: wire.MaxTopic, MaxPayload: wire.MaxMessage, MaxPacket: wire.MaxMessage + maxRecord, Ahead: receiveAhead,
		OnMessage: func(m mqttconn.Message) { l.receive(identity, m, d.acks) },
		OnRejected: func(code byte, reason string) {
			refused := &mqttconn.Refused{Code: code, Reason: reason}
			if refused.Credentials() {
				l.tellRefused(refused.Error())
			}
		},
	})
	return d, err
}

func (l *Link) setConn(conn *mqttconn.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = conn
	if connected := conn != nil; connected != l.status.Connected {
		l.status.Connected, l.status.Since = connected, time.Now()
	}
	if conn != nil {
		l.status.LastError = ""
	}
}

// endOf prefers the reason why the connection ended to what a call on it said.
func endOf(conn *mqttconn.Conn, err error) error {
	select {
	case <-conn.Done():
		if cause := conn.Err(); cause != nil {
			return cause
		}
	default:
	}
	return err
}

// encodeUp is the payload of a message from the outbox.
func encodeUp(up wire.Up) ([]byte, error) {
	payload, err := json.Marshal(up)
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	return payload, nil
}
