package update

import (
	"io"
	"net/http"
	"sync/atomic"
)

// Meter counts the bytes of bodies that come in over HTTP. It is the Transport of
// the client that Repo and Chunks share. Safe for concurrent use.
type Meter struct {
	Next http.RoundTripper
	read atomic.Int64
}

// Read is how many bytes came in so far.
func (m *Meter) Read() int64 { return m.read.Load() }

// RoundTrip has Next do it.
func (m *Meter) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := m.Next.RoundTrip(r)
	if err == nil {
		res.Body = &metered{res.Body, m}
	}
	return res, err
}

type metered struct {
	io.ReadCloser
	meter *Meter
}

func (b *metered) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.meter.read.Add(int64(n))
	return n, err
}

var _ http.RoundTripper = (*Meter)(nil)
