package mqttconn

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
)

// Refused is the answer of a broker that doesn't want this client or message.
type Refused struct {
	Code   byte   // MQTT 5 reason code (2.4); 0 if TLS refused before MQTT began
	Reason string // in words
}

func (r *Refused) Error() string {
	if r.Code == 0 {
		return "broker refused the certificate: " + r.Reason
	}
	return fmt.Sprintf("broker refused: %s (reason code 0x%02X)", r.Reason, r.Code)
}

// Credentials reports whether other credentials may help: the broker refused
// this identity, not this moment.
func (r *Refused) Credentials() bool {
	switch r.Code {
	case 0, packets.ConnackInvalidClientID, packets.ConnackBadUsernameOrPassword, packets.ConnackNotAuthorized,
		packets.ConnackBanned, packets.ConnackBadAuthenticationMethod, packets.DisconnectAdministrativeAction:
		return true
	}
	return false
}

// classify turns a TLS alert about our certificate into a *Refused. In TLS 1.3
// a server's refusal arrives after the handshake is done for the client, with
// the first bytes that it reads (RFC 8446, 4.4.2.4 and 6.2).
func classify(err error) error {
	var remote *net.OpError
	if !errors.As(err, &remote) || remote.Op != "remote error" || remote.Err == nil {
		return err
	}
	alert := strings.TrimPrefix(remote.Err.Error(), "tls: ")
	if strings.Contains(alert, "certificate") || alert == "access denied" {
		return &Refused{Reason: alert}
	}
	return err
}

func connackText(ack *paho.Connack) string {
	if ack.Properties != nil && ack.Properties.ReasonString != "" && len(ack.Properties.ReasonString) < 200 {
		return strings.ToValidUTF8(ack.Properties.ReasonString, "?")
	}
	return codeText(ack.ReasonCode)
}

func codeText(code byte) string {
	switch code {
	case packets.ConnackUnspecifiedError:
		return "unspecified error"
	case packets.ConnackInvalidClientID:
		return "client id is not the certificate's identity"
	case packets.ConnackBadUsernameOrPassword, packets.ConnackNotAuthorized:
		return "not authorised"
	case packets.ConnackServerUnavailable, packets.ConnackServerBusy:
		return "busy"
	case packets.ConnackBanned:
		return "banned"
	case packets.DisconnectServerShuttingDown:
		return "shutting down"
	case packets.DisconnectSessionTakenOver:
		return "another connection took over the session"
	case packets.DisconnectAdministrativeAction:
		return "dropped by the fleet"
	case packets.ConnackQuotaExceeded:
		return "quota exceeded"
	}
	return "see MQTT 5, section 2.4"
}
