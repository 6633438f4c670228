package web

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// The policy has no exception for inline script, style or style attributes; bars
// are SVG with plain attributes. form-action allows only the filter, a GET.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
	"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// guard sets the headers that every answer carries and refuses what the
// dashboard never answers: a request that could change something, and one that
// came under a foreign name (DNS rebinding lets any web page reach loopback
// under its own name).
func (s *site) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		h.Set("Cache-Control", "no-store")
		switch {
		case !ownName(r.Host, s.Hosts):
			// In plain words only: a foreign page must not even learn the fleet's name.
			http.Error(w, "This name is not the dashboard's. Open it under the loopback address that the fleet server printed.", http.StatusMisdirectedRequest)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			s.sorry(w, r, http.StatusMethodNotAllowed, "The dashboard only reads",
				"Commands and approvals are signed and sent with gatewarden-fleet.")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// ownName tells whether host, as of a Host header, is a loopback name or one of more.
func ownName(host string, more []string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if strings.EqualFold(name, "localhost") {
		return true
	}
	if addr, err := netip.ParseAddr(name); err == nil && addr.Unmap().IsLoopback() && addr.Zone() == "" {
		return true
	}
	for _, own := range more {
		if own != "" && strings.EqualFold(name, own) {
			return true
		}
	}
	return false
}
