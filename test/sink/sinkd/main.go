// Command sinkd is package sink as a process. It prints "listening ADDRESS" for each listener, and with --record a line for each message; with --messages it ends when
// that many came, else on SIGTERM or SIGINT. At the end it prints how many messages came, and of these how many with a Message-ID that had come before.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/test/sink"
)

const usage = `usage: sinkd [--messages N] [--record FILE] ADDRESS=SCRIPT...
  sinkd 127.0.0.1:2525= "127.0.0.2:2525=dot hang" "unix:/tmp/lmtp=lmtp; rcpt to=no@* 550 5.1.1 No"`

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	flags := flag.NewFlagSet("sinkd", flag.ContinueOnError)
	messages := flags.Int("messages", 0, "end when `N` messages came")
	record := flags.String("record", "", "write a line for each message to `FILE`")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return sysexits.OK
	} else if err != nil || flags.NArg() == 0 {
		fmt.Fprintln(os.Stderr, usage)
		return sysexits.Usage
	}
	if err := serve(flags.Args(), *messages, *record); err != nil {
		fmt.Fprintln(os.Stderr, "sinkd:", err)
		return sysexits.Of(err)
	}
	return sysexits.OK
}

func serve(listeners []string, messages int, record string) (err error) {
	s := sink.New()
	if record != "" {
		f, err := os.Create(record)
		if err != nil {
			return err
		}
		w := bufio.NewWriter(f)
		var mu sync.Mutex
		s.Took = func(m sink.Message) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(w, "%s %s %q %d %08x <%s> %s\n", m.At.UTC().Format("2006-01-02T15:04:05.000000Z"), m.Listener, m.ID, m.Size, m.Sum, m.From, strings.Join(m.To, ","))
		}
		defer func() { err = errors.Join(err, w.Flush(), f.Close()) }()
	}
	defer s.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	for _, arg := range listeners {
		addr, script, ok := strings.Cut(arg, "=")
		if !ok {
			return sysexits.With(sysexits.Usage, fmt.Errorf("%q is not of the form ADDRESS=SCRIPT", arg))
		}
		if addr, err = s.Listen(addr, script); err != nil {
			return err
		}
		fmt.Println("listening", addr)
	}
	if messages > 0 {
		_ = s.Await(ctx, "message", messages) // or a signal
	} else {
		<-ctx.Done()
	}
	s.Close()
	again := 0
	for id, n := range s.IDs() {
		if id != "" {
			again += n - 1
		}
	}
	fmt.Printf("took %d messages, %d of them again\n", s.Count("message"), again)
	return nil
}
