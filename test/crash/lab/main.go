// Lab cuts the power of hosts that run postel, and looks for what was promised. It needs root, /dev/fuse, loop devices and the tools that make file
// systems; see docs/durability.md.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() { os.Exit(run(os.Args[1:])) }

// plan is what the command line asks for.
type plan struct {
	bin    string
	states int
	seed   uint64
	only   string
	replay string // a record that was kept
	serves string // the name of a kind: this process is the one that serves its disks
	inside string // the name of a kind: this process is the one in the namespaces
	work   string // its folder
	steps  string // the tests of package crash, as a program
}

func run(args []string) int {
	p := plan{}
	f := flag.NewFlagSet("lab", flag.ContinueOnError)
	f.StringVar(&p.bin, "bin", "bin", "where the programs are")
	f.IntVar(&p.states, "states", 40, "power cuts to try on each file system")
	f.Uint64Var(&p.seed, "seed", 0, "of chance; 0 is the time")
	f.StringVar(&p.only, "only", "", "a comma-separated list of jobs (default all): "+strings.Join(names(), ", "))
	f.StringVar(&p.replay, "replay", "", "only cut the power of the record in `FILE` again, with its seed")
	f.StringVar(&p.serves, "serve", "", "the lab gives this to itself")
	f.StringVar(&p.inside, "inside", "", "the lab gives this to itself")
	f.StringVar(&p.work, "work", "", "the lab gives this to itself")
	f.StringVar(&p.steps, "steps", "", "the lab gives this to itself")
	if err := f.Parse(args); err != nil {
		return 64
	}
	var err error
	switch {
	case p.serves != "":
		err = p.serve()
	case p.inside != "":
		err = p.insideWork()
	default:
		err = p.outside()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", strings.ReplaceAll(err.Error(), "\n", "\n     "))
		return 70
	}
	return 0
}

func kindOf(name string) (kind, error) {
	for _, k := range kinds {
		if k.name == name {
			return k, nil
		}
	}
	return kind{}, fmt.Errorf("%q: there is only %s", name, strings.Join(names(), ", "))
}

func names() (all []string) {
	for _, k := range kinds {
		all = append(all, k.name)
	}
	return all
}
