// Package etcd runs the cluster's store: one embedded etcd member whose data and sockets live in a directory that root alone
// can enter. It listens on Unix sockets only, so nothing of it can be reached from the network.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// ErrInUse is returned by Start when another process holds the directory.
var ErrInUse = errors.New("data directory is in use by another process")

// Config says where the store lives.
type Config struct {
	// Dir holds data and sockets; it is made with mode 0700.
	Dir string
	// Logger receives what etcd has to say from warnings upwards.
	Logger *slog.Logger
}

// Server is a running member. The caller owns it and must Close it.
type Server struct {
	etcd   *embed.Etcd
	lock   *os.File
	client string
}

const (
	// A single member elects itself, within one or two election times of its start, so they are short; but each tick wakes an idle
	// machine up.
	tickMs, electionMs = 25, 125
	quotaBytes         = 8 << 30
	// snapshotCount bounds the log entries kept in memory.
	snapshotCount = 5000
	startTimeout  = 60 * time.Second
)

// Start starts the member and waits until it can serve. Returns ErrInUse if another process runs on dir. A damaged directory
// gives an error that names it and says what to do; nothing in it is changed then.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create etcd directory: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := checkDatabase(filepath.Join(cfg.Dir, "data", "member", "snap", "db")); err != nil {
		lock.Close()
		return nil, damaged(cfg.Dir, err)
	}
	s := &Server{lock: lock, client: "unix://" + filepath.Join(cfg.Dir, "client.sock")}
	if s.etcd, err = start(embedConfig(cfg)); err != nil {
		lock.Close()
		return nil, damaged(cfg.Dir, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case <-s.etcd.Server.ReadyNotify():
		return s, nil
	case err = <-s.etcd.Err():
	case <-s.etcd.Server.StopNotify():
		err = errors.New("stopped while starting")
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.Close()
	return nil, fmt.Errorf("start etcd in %s: %w", cfg.Dir, err)
}

// Endpoints are the URLs that clients in this process tree connect to.
func (s *Server) Endpoints() []string { return []string{s.client} }

// Err reports a failure of the running member.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

// Close stops the member and releases the directory.
func (s *Server) Close() {
	s.etcd.Close()
	s.lock.Close()
}

func embedConfig(cfg Config) *embed.Config {
	c := embed.NewConfig()
	c.Name = "skep"
	c.Dir = filepath.Join(cfg.Dir, "data")
	client := url.URL{Scheme: "unix", Path: filepath.Join(cfg.Dir, "client.sock")}
	peer := url.URL{Scheme: "unix", Path: filepath.Join(cfg.Dir, "peer.sock")}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.TickMs, c.ElectionMs = tickMs, electionMs
	c.QuotaBackendBytes = quotaBytes
	c.SnapshotCount = snapshotCount
	// The API server compacts every five minutes by itself; a second compactor would only fight it.
	c.AutoCompactionRetention = "0"
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newLogger(cfg.Logger))
	return c
}

// start runs embed.StartEtcd and turns the panics with which etcd meets a damaged log or database into errors.
func start(c *embed.Config) (e *embed.Etcd, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return embed.StartEtcd(c)
}

// checkDatabase opens and closes the database file if there is one: etcd opens it in a goroutine of its own, where its panic
// over a damaged file would end the process.
func checkDatabase(file string) error {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	return db.Close()
}

func damaged(dir string, err error) error {
	return fmt.Errorf("start etcd in %s: %w; if the directory is damaged, restore it from a backup, or remove it to start an empty cluster", dir, err)
}

// lockDir takes the lock that one process at a time can hold on dir; the kernel releases it when the process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock etcd directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", dir, ErrInUse)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// newLogger gives etcd a zap logger that writes to logger, and panics instead of ending the process on a fatal entry, so
// that start can report it.
func newLogger(logger *slog.Logger) *zap.Logger {
	return zap.New(&core{logger: logger.With("component", "etcd")}, zap.WithFatalHook(zapcore.WriteThenPanic))
}

// core is a zapcore.Core over slog. It is safe for concurrent use.
type core struct {
	logger *slog.Logger
	fields []zapcore.Field
}

func (c *core) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{logger: c.logger, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) {
		return ce
	}
	return ce.AddCore(e, c)
}

func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(enc)
	}
	args := make([]any, 0, 2*len(enc.Fields))
	for k, v := range enc.Fields {
		args = append(args, k, v)
	}
	level := slog.LevelWarn
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	c.logger.Log(context.Background(), level, e.Message, args...)
	return nil
}

func (c *core) Sync() error { return nil }
