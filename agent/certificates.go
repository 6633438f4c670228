package agent

import (
	"context"

	"github.com/gatewarden/gatewarden/agent/identity"
	"github.com/gatewarden/gatewarden/agent/local"
)

// What the local socket asks of certificates.

// CertificateRenew returns when a new certificate is in use.
func (a *Agent) CertificateRenew(ctx context.Context) error { return a.identity.Rotate(ctx) }

// CertificateHistory lists the certificates that were issued, the newest first.
func (a *Agent) CertificateHistory() []identity.Record { return a.identity.History() }

// EnrollToken keeps a one-time token for the enrolment.
func (a *Agent) EnrollToken(token string) error { return a.identity.UseToken(token) }

var _ local.Certificates = (*Agent)(nil)
