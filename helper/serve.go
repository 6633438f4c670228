package helper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/helperwire"
)

// serve accepts connections. It returns nil when ctx ended or nobody came for Idle.
func (s *server) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.conns.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.Listener.SetDeadline(time.Unix(1, 0)) })()
	for {
		if err := s.armIdle(ctx); err != nil {
			return err
		}
		conn, err := s.Listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && len(s.slots) == 0:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return fmt.Errorf("accept connection: %w", err)
		}
		s.admit(ctx, conn)
	}
}

func (s *server) armIdle(ctx context.Context) error {
	if s.Idle <= 0 || ctx.Err() != nil {
		return nil
	}
	return s.Listener.SetDeadline(time.Now().Add(s.Idle))
}

// admit checks who is there before anything is read, and keeps connections few.
func (s *server) admit(ctx context.Context, conn *net.UnixConn) {
	uid, err := peerUID(conn)
	if err != nil || uid != s.PeerUID {
		s.Log.Warn("connection by another user was closed", "uid", uid, "error", err)
		conn.Close()
		return
	}
	select {
	case s.slots <- struct{}{}:
	default:
		conn.Close()
		return
	}
	s.conns.Go(func() {
		defer func() { <-s.slots }()
		defer conn.Close()
		if err := s.handle(ctx, conn); err != nil {
			s.Log.Warn("connection was closed", "error", err)
		}
	})
}

func peerUID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	var peer *unix.Ucred
	if e := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil {
		return -1, e
	}
	if err != nil {
		return -1, err
	}
	return int(peer.Uid), nil
}

// handle serves the one request of a connection, or a session.
func (s *server) handle(ctx context.Context, conn *net.UnixConn) error {
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	if err := conn.SetDeadline(time.Now().Add(frameTimeout)); err != nil {
		return err
	}
	var request helperwire.Request
	if err := helperwire.Read(conn, &request); err != nil {
		return err
	}
	if v := request.Verb; request.Version == 1 && (v == helperwire.VerbInstall || v == helperwire.VerbOperators) {
		return s.install(ctx, conn, request)
	}
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	a := s.answer(ctx, request)
	defer a.close()
	if err := conn.SetDeadline(time.Now().Add(frameTimeout)); err != nil {
		return err
	}
	if err := send(conn, a); err != nil {
		return err
	}
	if a.after == nil {
		return nil
	}
	return a.after(ctx)
}

// answer is a response and what comes with it.
type answer struct {
	helperwire.Response
	files []*os.File                      // travel with it, then are closed
	after func(ctx context.Context) error // is done once it was sent
}

func (a answer) close() {
	for _, f := range a.files {
		f.Close()
	}
}

func send(conn *net.UnixConn, a answer) error {
	frame, err := helperwire.Encode(a.Response)
	if err != nil {
		return err
	}
	var control []byte
	if len(a.files) > 0 {
		numbers := make([]int, 0, len(a.files))
		for _, f := range a.files {
			numbers = append(numbers, int(f.Fd()))
		}
		control = unix.UnixRights(numbers...)
	}
	n, _, err := conn.WriteMsgUnix(frame, control, nil)
	if err == nil && n < len(frame) {
		_, err = conn.Write(frame[n:])
	}
	if err != nil {
		return fmt.Errorf("write response: %w", err)
	}
	return nil
}
