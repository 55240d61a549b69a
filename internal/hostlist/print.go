package hostlist

import (
	"bufio"
	"errors"
	"io"
	"strings"
)

// window is how many names may be read ahead of the answer to be printed next, so that a slow one does not hold up the others.
const window = 4096

// Print looks up every name, "-" or no name being those in stdin, and writes the answers to out in the order of the names, each as soon as
// it and those before it are known. It returns the largest exit status of any name, and the error that ended it early;
// what is being looked up then goes on until the program ends.
func (l *List) Print(names []string, stdin io.Reader, out io.Writer) (worst int, err error) {
	slots, ended := make(chan chan answer, window), make(chan error, 1)
	go func() {
		defer close(slots)
		running := make(chan struct{}, l.Jobs)
		ended <- each(names, stdin, func(name string) {
			slot := make(chan answer, 1)
			running <- struct{}{}
			slots <- slot
			go func() {
				slot <- l.look(name)
				<-running
			}()
		})
	}()
	w := bufio.NewWriterSize(out, 32<<10) // joins answers that are known at the same time; its error stays
	idle := func() { err = w.Flush() }
	for slot, ok := take(slots, idle); ok && err == nil; slot, ok = take(slots, idle) {
		a, _ := take(slot, idle)
		worst = max(worst, a.Exit)
		_, err = w.Write(l.print(nil, a))
		for _, line := range a.said {
			idle()
			l.Say(line)
		}
	}
	if idle(); err != nil {
		return worst, err
	}
	return worst, <-ended
}

// take receives from c, and calls idle before it has to wait.
func take[T any](c <-chan T, idle func()) (v T, ok bool) {
	select {
	case v, ok = <-c:
	default:
		idle()
		v, ok = <-c
	}
	return v, ok
}

// each calls do with every name, "-" or none standing for the lines of stdin. Empty lines are left out; one that is too long for
// a name is cut, so that memory stays constant, and still too long.
func each(names []string, stdin io.Reader, do func(string)) error {
	if len(names) == 0 {
		names = []string{"-"}
	}
	for _, name := range names {
		if name != "-" {
			do(name)
			continue
		}
		in := bufio.NewReaderSize(stdin, 4096)
		for rest := false; ; {
			b, err := in.ReadSlice('\n')
			if line := strings.TrimSpace(string(b)); line != "" && !rest {
				do(line)
			}
			rest = errors.Is(err, bufio.ErrBufferFull)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil && !rest {
				return err
			}
		}
	}
	return nil
}
