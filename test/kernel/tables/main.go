// Command tables reads the consoles' logs of test/kernel/run, one file for each kernel, and prints what they say: what the
// verifier made of each program, and which tests passed. It fails when a test failed, or when one did not get to its end.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"text/tabwriter"
)

// console is what one kernel's log says.
type console struct {
	kernel   string
	release  string
	programs map[string]string // what the verifier said of each program
	suites   map[string]*suite
	done     bool
}

// suite is one test program.
type suite struct {
	passed, skipped int
	failed          []string
	ended           bool // of its own accord, and without a failure
	seconds         string
}

// The console may hold what the kernel says in the middle of a line.
var (
	release = regexp.MustCompile(`guest: kernel (\S+)`)
	begin   = regexp.MustCompile(`guest: begin (\S+)`)
	end     = regexp.MustCompile(`guest: end (\S+) (?:(\d+s) )?ok`)
	done    = regexp.MustCompile(`guest: done`)
	program = regexp.MustCompile(`program (\w+): (\d+) instructions, (\d+) ms`)
	outcome = regexp.MustCompile(`--- (PASS|FAIL|SKIP): (\S+) \(`)
)

func main() {
	var all []console
	for _, path := range os.Args[1:] {
		c, err := read(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		all = append(all, c)
	}
	programs(os.Stdout, all)
	fmt.Println()
	tests(os.Stdout, all)
	if !report(os.Stdout, all) {
		os.Exit(1)
	}
}

func read(path string) (console, error) {
	c := console{kernel: filepath.Base(path), programs: map[string]string{}, suites: map[string]*suite{}}
	f, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer f.Close()
	current := &suite{} // what comes before the first is nobody's
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		current = c.line(lines.Text(), current)
	}
	return c, lines.Err()
}

// line takes in a line that the suite at hand wrote, and returns the suite at hand after it.
func (c *console) line(text string, current *suite) *suite {
	if m := release.FindStringSubmatch(text); m != nil {
		c.release = m[1]
	}
	if m := begin.FindStringSubmatch(text); m != nil {
		current = &suite{}
		c.suites[m[1]] = current
	}
	if m := end.FindStringSubmatch(text); m != nil {
		current.ended, current.seconds = true, m[2]
	}
	c.done = c.done || done.MatchString(text)
	if m := program.FindStringSubmatch(text); m != nil {
		c.programs[m[1]] = m[2] + " (" + m[3] + " ms)"
	}
	if m := outcome.FindStringSubmatch(text); m != nil {
		switch m[1] {
		case "PASS":
			current.passed++
		case "SKIP":
			current.skipped++
		default:
			current.failed = append(current.failed, m[2])
		}
	}
	return current
}

// programs prints the instructions that the verifier followed, and the time to load.
func programs(w io.Writer, all []console) {
	var names []string
	for _, c := range all {
		for name := range c.programs {
			names = append(names, name)
		}
	}
	cell := func(c console, name string) string {
		if s, ok := c.programs[name]; ok {
			return s
		}
		return "not loaded"
	}
	table(w, "program: verified instructions (time to load)", all, names, cell)
}

// tests prints how many tests, with those within them, passed and failed.
func tests(w io.Writer, all []console) {
	var names []string
	for _, c := range all {
		for name := range c.suites {
			names = append(names, name)
		}
	}
	cell := func(c console, name string) string {
		s := c.suites[name]
		if s == nil {
			return "not run"
		}
		text := fmt.Sprintf("%d/%d", s.passed, len(s.failed))
		if s.skipped > 0 {
			text += fmt.Sprintf("/%d skipped", s.skipped)
		}
		if !s.ended {
			text += " FAILED"
		}
		return text
	}
	table(w, "tests: passed/failed", all, names, cell)
}

func table(w io.Writer, title string, all []console, names []string, cell func(console, string) string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, title)
	for _, c := range all {
		fmt.Fprintf(t, "\t%s", c.release)
	}
	fmt.Fprintln(t)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		fmt.Fprint(t, name)
		for _, c := range all {
			fmt.Fprintf(t, "\t%s", cell(c, name))
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}

// report names what failed, and says whether all is well.
func report(w io.Writer, all []console) bool {
	well := true
	for _, c := range all {
		if !c.done || len(c.suites) == 0 || len(c.programs) == 0 {
			well = false
			fmt.Fprintf(w, "%s: did not get to its end\n", c.kernel)
		}
		for name, s := range c.suites {
			well = well && s.ended && len(s.failed) == 0
			for _, test := range s.failed {
				fmt.Fprintf(w, "%s: %s: %s failed\n", c.kernel, name, test)
			}
		}
	}
	return well
}
