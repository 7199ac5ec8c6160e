package load

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// functionsOf cuts a program's instructions into its functions, the program itself first.
func functionsOf(all asm.Instructions) (names []string, bodies map[string]asm.Instructions) {
	bodies = map[string]asm.Instructions{}
	for _, ins := range all {
		if name := ins.Symbol(); name != "" && btf.FuncMetadata(&ins) != nil {
			names = append(names, name)
		}
		last := names[len(names)-1]
		bodies[last] = append(bodies[last], ins)
	}
	return names, bodies
}

// closure is a function and all that it calls, in the order of names.
func closure(name string, names []string, bodies map[string]asm.Instructions) []string {
	in := map[string]bool{name: true}
	for again := true; again; {
		again = false
		for f := range in {
			for _, ins := range bodies[f] {
				if ins.IsFunctionReference() && !in[ins.Reference()] {
					in[ins.Reference()], again = true, true
				}
			}
		}
	}
	var list []string
	for _, n := range names {
		if in[n] {
			list = append(list, n)
		}
	}
	return list
}

// caller is a program that does nothing but call a function. The verifier looks at functions for themselves.
func caller(spec *ebpf.ProgramSpec, name string, names []string, bodies map[string]asm.Instructions) *ebpf.ProgramSpec {
	main := bodies[names[0]][0]
	body := asm.Instructions{
		asm.Mov.Imm(asm.R2, 0), asm.Mov.Imm(asm.R3, 0), asm.Mov.Imm(asm.R4, 0), asm.Mov.Imm(asm.R5, 0),
		asm.Call.Label(name),
		asm.Mov.Imm(asm.R0, 0), asm.Return(),
	}
	body[0] = btf.WithFuncMetadata(body[0].WithSymbol(names[0]).WithSource(main.Source()), btf.FuncMetadata(&main))
	for _, f := range closure(name, names, bodies) {
		body = append(body, bodies[f]...)
	}
	only := spec.Copy()
	only.Instructions = body
	return only
}

// TestVerifierParts says what the verifier makes of each function of a program.
func TestVerifierParts(t *testing.T) {
	specs, maps := openAll(t)
	for _, spec := range specs {
		for name, program := range spec.Programs {
			names, bodies := functionsOf(program.Instructions)
			for _, f := range names[1:] {
				part := spec.Copy()
				part.Programs = map[string]*ebpf.ProgramSpec{name: caller(program, f, names, bodies)}
				n, _ := verify(t, part, maps, name)
				t.Logf("part %s: %s (%d called): %d instructions", name, f, len(closure(f, names, bodies))-1, n)
			}
		}
	}
}
