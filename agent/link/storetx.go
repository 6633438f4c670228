package link

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/internal/wire"
)

// The file has a bucket "meta" with "format" and the state of each class, and a
// bucket of records for each class, by Seq (8 bytes, big-endian).

func bucketName(c class) []byte { return []byte([classes]string{"security", "telemetry"}[c]) }

func metaName() []byte { return []byte("meta") }

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// errFormat is not damage: the file waits for the release that made it.
var errFormat = errors.New("outbox was made by a later release; install that one again, or remove the file to lose what waits in it")

// load reads the state of a file and checks every record; a new file is filled in.
func (s *store) load() (now streams, err error) {
	err = s.db.Update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(metaName())
		if meta == nil {
			now, err = create(tx)
			return err
		}
		if string(meta.Get([]byte("format"))) != storeFormat {
			return errFormat
		}
		for c := range classes {
			if now[c], err = loadStream(tx, meta, c); err != nil {
				return err
			}
		}
		return nil
	})
	return now, err
}

func create(tx *bbolt.Tx) (now streams, err error) {
	meta, err := tx.CreateBucket(metaName())
	if err != nil {
		return now, damage(err)
	}
	if err := meta.Put([]byte("format"), []byte(storeFormat)); err != nil {
		return now, err
	}
	for c := range classes {
		now[c] = newStream(c)
		if _, err := tx.CreateBucket(bucketName(c)); err != nil {
			return now, damage(err)
		}
	}
	return now, (&storeTx{tx}).save(now)
}

func loadStream(tx *bbolt.Tx, meta *bbolt.Bucket, c class) (stream, error) {
	var s stream
	bucket := tx.Bucket(bucketName(c))
	data, err := unseal(meta.Get(bucketName(c)))
	if err != nil {
		return s, err
	}
	if err := strictjson.Inform(data, &s); err != nil || bucket == nil || s.ID == "" {
		return s, fmt.Errorf("%w: state of a stream is unreadable", errDamaged)
	}
	s.last, s.first = s.Last, s.Last+1
	next := uint64(0)
	err = bucket.ForEach(func(k, v []byte) error {
		if len(k) != 8 || next != 0 && binary.BigEndian.Uint64(k) != next {
			return fmt.Errorf("%w: a record is missing", errDamaged)
		}
		if next == 0 {
			s.first = binary.BigEndian.Uint64(k)
			next = s.first
		}
		next++
		s.bytes += int64(len(v))
		_, err := decodeRecord(v)
		return err
	})
	if err == nil && next != 0 && next != s.last+1 {
		err = fmt.Errorf("%w: the last record is missing", errDamaged)
	}
	return s, err
}

// storeTx changes file and state together.
type storeTx struct{ tx *bbolt.Tx }

func (t *storeTx) save(now streams) error {
	meta := t.tx.Bucket(metaName())
	for c := range classes {
		data, err := json.Marshal(now[c])
		if err != nil {
			return err
		}
		if err := meta.Put(bucketName(c), seal(data)); err != nil {
			return err
		}
	}
	return nil
}

func (t *storeTx) append(now *streams, c class, data []byte) error {
	s := &now[c]
	s.last++
	s.Last = s.last
	s.bytes += int64(len(data))
	return t.tx.Bucket(bucketName(c)).Put(seqKey(s.last), data)
}

// trim drops the oldest until now is within limits: telemetry, then security.
func (t *storeTx) trim(now *streams, l Limits) (lost uint64, err error) {
	for now[security].bytes+now[telemetry].bytes > l.Bytes || now[security].count()+now[telemetry].count() > l.Count {
		c := telemetry
		if now[c].count() == 0 {
			c = security
		}
		if now[c].count() == 0 {
			return lost, nil
		}
		if err := t.removeTo(&now[c], c, now[c].first); err != nil {
			return lost, err
		}
		lost++
	}
	return lost, nil
}

func (t *storeTx) removeTo(s *stream, c class, upTo uint64) error {
	bucket := t.tx.Bucket(bucketName(c))
	for ; s.first <= min(upTo, s.last); s.first++ {
		s.bytes -= int64(len(bucket.Get(seqKey(s.first))))
		if err := bucket.Delete(seqKey(s.first)); err != nil {
			return err
		}
	}
	return nil
}

// apply takes the fleet's word for what it has. Less than before means that the
// fleet lost some: the next message then follows on what it has. More than was
// ever numbered means that this file is an old copy: its numbers are used up.
func (t *storeTx) apply(now *streams, ack wire.Ack) error {
	for c := range classes {
		s := &now[c]
		if s.ID != ack.Stream {
			continue
		}
		if ack.UpTo > s.last {
			return t.renumber(s, c)
		}
		s.Acked = ack.UpTo
		return t.removeTo(s, c, ack.UpTo)
	}
	return nil
}

// renumber moves what is stored to a new stream, from 1.
func (t *storeTx) renumber(s *stream, c class) error {
	bucket := t.tx.Bucket(bucketName(c))
	fresh := newStream(c)
	for seq := s.first; seq <= s.last; seq++ {
		data := append([]byte(nil), bucket.Get(seqKey(seq))...)
		if err := bucket.Delete(seqKey(seq)); err != nil {
			return err
		}
		fresh.last++
		fresh.bytes += int64(len(data))
		if err := bucket.Put(seqKey(fresh.last), data); err != nil {
			return err
		}
	}
	fresh.Last = fresh.last
	*s = fresh
	return nil
}
