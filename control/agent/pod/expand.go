package pod

import (
	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/env"
)

// expand replaces $(NAME) in a command line by the container's variables.
func expand(words []string, vars []container.EnvVar) []string {
	if len(words) == 0 {
		return nil
	}
	lookup := env.Lookup(vars)
	out := make([]string, len(words))
	for i, word := range words {
		out[i] = env.Expand(word, lookup)
	}
	return out
}
