package volume

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// File is one file of a volume.
type File struct {
	Data []byte
	Mode os.FileMode
	// UID owns the file where not nil.
	UID *int64
}

// dataLink is the symbolic link whose replacement changes all files at once.
const dataLink = "..data"

// Write makes dir show exactly files, by relative path. A reader sees all of the old or all of the new: the files are in a
// directory of their own, which a symbolic link names, and the link is replaced by rename. Nothing is touched if nothing
// changed.
func Write(dir string, files map[string]File, group *int64) error {
	current := filepath.Join(dir, dataLink)
	if same(current, files) {
		return links(dir, files)
	}
	fresh, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return err
	}
	if err := fill(fresh, files, group); err != nil {
		os.RemoveAll(fresh)
		return err
	}
	old, _ := os.Readlink(current)
	next := filepath.Join(dir, "..data_tmp")
	os.Remove(next)
	if err := os.Symlink(filepath.Base(fresh), next); err != nil {
		return err
	}
	if err := os.Rename(next, current); err != nil {
		return err
	}
	if err := links(dir, files); err != nil {
		return err
	}
	if old != "" {
		return os.RemoveAll(filepath.Join(dir, old))
	}
	return nil
}

func fill(dir string, files map[string]File, group *int64) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(dir, name)
		if !filepath.IsLocal(name) {
			return fmt.Errorf("path %q leaves its volume", name)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.Data, f.Mode); err != nil {
			return err
		}
		mode := f.Mode
		uid, gid := -1, -1
		if f.UID != nil {
			uid = int(*f.UID)
		}
		if group != nil {
			gid = int(*group)
			mode |= 0o440 & (f.Mode | f.Mode>>3 | 0o040)
		}
		if uid >= 0 || gid >= 0 {
			if err := os.Chown(path, uid, gid); err != nil {
				return err
			}
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
	}
	return nil
}

// same says that the volume shows these files already.
func same(current string, files map[string]File) bool {
	count := 0
	filepath.WalkDir(current+"/", func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			count++
		}
		return nil
	})
	if count != len(files) {
		return false
	}
	if _, err := os.Stat(current); err != nil {
		return false
	}
	for name, f := range files {
		data, err := os.ReadFile(filepath.Join(current, name))
		if err != nil || !bytes.Equal(data, f.Data) {
			return false
		}
	}
	return true
}

// links makes the names in the volume's root point into the data and removes those that have no file any more.
func links(dir string, files map[string]File) error {
	want := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		want[top] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); !strings.HasPrefix(name, "..") && !want[name] {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	for name := range want {
		err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name))
		if err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}
