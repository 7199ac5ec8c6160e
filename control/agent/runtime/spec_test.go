package runtime

import (
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/image"
)

func TestCommand(t *testing.T) {
	img := ocispec.ImageConfig{Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}}
	for _, row := range []struct {
		command, args, want []string
	}{
		{nil, nil, []string{"entry", "cmd"}},
		{nil, []string{"a"}, []string{"entry", "a"}},
		{[]string{"c"}, nil, []string{"c"}},
		{[]string{"c"}, []string{"a"}, []string{"c", "a"}},
	} {
		if got := command(container.Config{Command: row.command, Args: row.args}, img); !slices.Equal(got, row.want) {
			t.Errorf("%v %v: %v", row.command, row.args, got)
		}
	}
}

func TestEnvironment(t *testing.T) {
	img := ocispec.ImageConfig{Env: []string{"PATH=/p", "A=image", "B=image"}}
	got := environment(container.Config{Env: []container.EnvVar{{Name: "A", Value: "own"}, {Name: "C", Value: ""}}}, img)
	if want := []string{"PATH=/p", "A=own", "B=image", "C="}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestCapabilities(t *testing.T) {
	all := []string{"CAP_CHOWN", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"}
	for name, row := range map[string]struct {
		security container.Security
		want     []string
	}{
		"default":    {container.Security{}, defaultCapabilities()},
		"only one":   {container.Security{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_ADMIN"}}, []string{"CAP_NET_ADMIN"}},
		"privileged": {container.Security{Privileged: true}, all},
		"all but":    {container.Security{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"SYS_ADMIN"}}, all[:2]},
	} {
		if got := capabilities(row.security, all).Bounding; !slices.Equal(got, row.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestResolveUser(t *testing.T) {
	accounts := image.Accounts{
		Passwd: []byte("root:x:0:0::/:/bin/sh\napp:x:100:200::/:/bin/sh\n"),
		Group:  []byte("app:x:200:\nextra:x:300:app\nother:x:400:\n"),
	}
	for _, row := range []struct {
		image    string
		security container.Security
		uid, gid uint32
		groups   []uint32
		fails    bool
	}{
		{image: "", uid: 0, gid: 0, groups: []uint32{0}},
		{image: "app", uid: 100, gid: 200, groups: []uint32{200, 300}},
		{image: "app:other", uid: 100, gid: 400, groups: []uint32{300, 400}},
		{image: "1000:1000", uid: 1000, gid: 1000, groups: []uint32{1000}},
		{image: "app", security: container.Security{RunAsUser: ptr.To[int64](7), SupplementalGroups: []int64{9}}, uid: 7, groups: []uint32{0, 9}},
		{image: "", security: container.Security{RunAsUser: ptr.To[int64](100), RunAsGroup: ptr.To[int64](5)}, uid: 100, gid: 5, groups: []uint32{5, 300}},
		{image: "nobody-here", fails: true},
	} {
		got, err := resolveUser(row.security, row.image, accounts)
		if (err != nil) != row.fails {
			t.Errorf("%q: %v", row.image, err)
			continue
		}
		if err == nil && (got.UID != row.uid || got.GID != row.gid || !slices.Equal(got.AdditionalGids, row.groups)) {
			t.Errorf("%q %+v: %+v", row.image, row.security, got)
		}
	}
}
