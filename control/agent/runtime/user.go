package runtime

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/image"
)

// resolveUser finds who a container runs as: the security context first, else the image's USER ("user", "uid", "user:group"
// and so on), with the groups that the image's own files give that user. Returns an error if a name is unknown.
func resolveUser(s container.Security, imageUser string, accounts image.Accounts) (specs.User, error) {
	name, groupName, hasGroup := strings.Cut(imageUser, ":")
	if s.RunAsUser != nil {
		name, groupName, hasGroup = strconv.FormatInt(*s.RunAsUser, 10), "", false
	}
	if s.RunAsGroup != nil {
		groupName, hasGroup = strconv.FormatInt(*s.RunAsGroup, 10), true
	}
	out, login, err := findUser(name, accounts.Passwd)
	if err != nil {
		return specs.User{}, err
	}
	groups, err := user.ParseGroupFilter(bytes.NewReader(accounts.Group), func(g user.Group) bool {
		return login != "" && slices.Contains(g.List, login) || hasGroup && g.Name == groupName
	})
	if err != nil {
		return specs.User{}, fmt.Errorf("image's /etc/group: %w", err)
	}
	if hasGroup {
		if out.GID, err = findGroup(groupName, groups); err != nil {
			return specs.User{}, err
		}
	}
	gids := []uint32{out.GID}
	for _, g := range groups {
		if slices.Contains(g.List, login) {
			gids = append(gids, uint32(g.Gid))
		}
	}
	for _, g := range s.SupplementalGroups {
		gids = append(gids, uint32(g))
	}
	slices.Sort(gids)
	out.AdditionalGids = slices.Compact(gids)
	return out, nil
}

// findUser returns the user and its login name, which is empty for a number that no login has.
func findUser(name string, passwd []byte) (specs.User, string, error) {
	if name == "" {
		name = "0"
	}
	uid, numeric := strconv.ParseUint(name, 10, 32)
	found, err := user.ParsePasswdFilter(bytes.NewReader(passwd), func(u user.User) bool {
		return u.Name == name || numeric == nil && u.Uid == int(uid)
	})
	if err != nil {
		return specs.User{}, "", fmt.Errorf("image's /etc/passwd: %w", err)
	}
	if len(found) > 0 {
		return specs.User{UID: uint32(found[0].Uid), GID: uint32(found[0].Gid)}, found[0].Name, nil
	}
	if numeric != nil {
		return specs.User{}, "", fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
	}
	return specs.User{UID: uint32(uid)}, "", nil
}

func findGroup(name string, groups []user.Group) (uint32, error) {
	if gid, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(gid), nil
	}
	for _, g := range groups {
		if g.Name == name {
			return uint32(g.Gid), nil
		}
	}
	return 0, fmt.Errorf("unable to find group %s: no matching entries in group file", name)
}
