package env

import (
	"strings"

	"github.com/skep-io/skep/control/agent/container"
)

// Lookup returns a function that finds the value of a variable, the last of a name winning.
func Lookup(vars []container.EnvVar) func(string) (string, bool) {
	values := make(map[string]string, len(vars))
	for _, v := range vars {
		values[v.Name] = v.Value
	}
	return func(name string) (string, bool) { v, ok := values[name]; return v, ok }
}

// Expand replaces each $(NAME) that lookup knows by its value. $$ stands for $, and a reference to an unknown name stays as it is.
func Expand(s string, lookup func(string) (string, bool)) string {
	var out strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i+1 == len(s) {
			out.WriteString(s)
			return out.String()
		}
		out.WriteString(s[:i])
		s = s[i+1:]
		switch s[0] {
		case '$':
			out.WriteByte('$')
			s = s[1:]
		case '(':
			end := strings.IndexByte(s, ')')
			if end < 0 {
				out.WriteString("$")
				continue
			}
			if v, ok := lookup(s[1:end]); ok {
				out.WriteString(v)
			} else {
				out.WriteString("$" + s[:end+1])
			}
			s = s[end+1:]
		default:
			out.WriteByte('$')
		}
	}
}
