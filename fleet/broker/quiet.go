package broker

import (
	"context"
	"log/slog"
)

// quiet is the library's log: it writes whole packets, which carry nonces and
// messages, and complains about what clients did. Here that is debug, and
// without the packets.
type quiet struct{ inner slog.Handler }

func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.inner.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, slog.LevelDebug, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "pk", "packet", "will":
		default:
			clean.AddAttrs(a)
		}
		return true
	})
	return q.inner.Handle(ctx, clean)
}

func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.inner.WithAttrs(a)} }
func (q quiet) WithGroup(name string) slog.Handler   { return quiet{q.inner.WithGroup(name)} }
