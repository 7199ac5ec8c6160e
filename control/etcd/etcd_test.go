package etcd

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func run(t *testing.T, dir string) *Server {
	t.Helper()
	s, err := Start(t.Context(), Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func connect(t *testing.T, s *Server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: s.Endpoints(), DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestStartServeRestart(t *testing.T) {
	dir := t.TempDir()
	began := time.Now()
	s := run(t, dir)
	t.Logf("ready after %v", time.Since(began))
	if _, err := connect(t, s).Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	s.Close()

	s = run(t, dir)
	defer s.Close()
	got, err := connect(t, s).Get(t.Context(), "k")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" {
		t.Fatalf("after restart: %v, %v", got, err)
	}
}

func TestSecondStartIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := run(t, dir)
	defer s.Close()
	_, err := Start(t.Context(), Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, ErrInUse) {
		t.Fatalf("second start: %v", err)
	}
}

func TestDamagedDirectoryIsNamed(t *testing.T) {
	for _, part := range []string{".wal", "db"} {
		t.Run(part, func(t *testing.T) {
			dir := t.TempDir()
			s := run(t, dir)
			c := connect(t, s)
			for range 100 {
				if _, err := c.Put(context.Background(), "k", strings.Repeat("v", 1000)); err != nil {
					t.Fatal(err)
				}
			}
			s.Close()
			damage(t, dir, part)
			s, err := Start(t.Context(), Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
			if err == nil {
				s.Close()
				t.Fatal("started on a damaged directory")
			}
			if !strings.Contains(err.Error(), dir) {
				t.Errorf("error %q does not name the directory", err)
			}
		})
	}
}

// damage overwrites the beginning of every file below dir whose name ends in suffix.
func damage(t *testing.T, dir, suffix string) {
	t.Helper()
	hit := false
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, suffix) {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		hit = true
		_, err = f.WriteAt([]byte(strings.Repeat("junk", 4096)), 0)
		return err
	})
	if err != nil || !hit {
		t.Fatalf("damage %s: %v", suffix, err)
	}
}
