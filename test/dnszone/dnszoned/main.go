// Command dnszoned serves a master file on a loopback address for the demonstration and the tests. It prints "listening ADDRESS" and
// ends on SIGTERM or SIGINT.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/test/dnszone"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	flags := flag.NewFlagSet("dnszoned", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:0", "serve on this `ADDRESS`, UDP and TCP")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return sysexits.OK
	} else if err != nil || flags.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: dnszoned [--listen ADDRESS] FILE")
		return sysexits.Usage
	}
	if err := serve(*listen, flags.Arg(0)); err != nil {
		fmt.Fprintf(os.Stderr, "dnszoned: %v\n", err)
		return sysexits.Of(err)
	}
	return sysexits.OK
}

func serve(listen, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return sysexits.With(sysexits.NoInput, err)
	}
	zone, err := dnszone.Parse(string(text))
	if err != nil {
		return sysexits.With(sysexits.DataErr, err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	server, err := zone.Serve(listen)
	if err != nil {
		return sysexits.With(sysexits.Unavailable, err)
	}
	fmt.Println("listening", server.Addr())
	<-stop
	server.Close()
	return nil
}
