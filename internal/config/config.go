// Package config reads postel.toml into one struct, strictly: an unknown key, a wrong type or a bad value is an error that names
// file, line and column. Only package program and the mains import it; everything else gets plain values.
//
// Each field's `toml` tag is a key of postel.toml(5); a test holds the two together.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/screen"
)

// DefaultFile is read when neither --config nor $POSTEL_CONFIG names another.
const DefaultFile = "/etc/postel/postel.toml"

// Config is postel.toml. See postel.toml(5) for each key.
type Config struct {
	Hostname           string                  `toml:"hostname"`
	Spool              string                  `toml:"spool"`
	Domains            []Domain                `toml:"domains"`
	Users              string                  `toml:"users"`
	Mailbox            destination.Destination `toml:"mailbox"`
	Aliases            string                  `toml:"aliases"`
	Local              destination.Destination `toml:"local"`
	Submit             string                  `toml:"submit"`
	RecipientDelimiter string                  `toml:"recipient_delimiter"`
	RelayNetworks      []netip.Prefix          `toml:"relay_networks"`
	RelayDomains       []Domain                `toml:"relay_domains"`
	Routes             map[string]Hops         `toml:"routes"`
	SMTP               SMTP                    `toml:"smtp"`
	DNS                DNS                     `toml:"dns"`
	TLS                TLS                     `toml:"tls"`
	SMTPD              SMTPD                   `toml:"smtpd"`
	Screen             Screen                  `toml:"screen"`
	Auth               Auth                    `toml:"auth"`
	Submission         Submission              `toml:"submission"`
	Queue              Queue                   `toml:"queue"`
	Limits             Limits                  `toml:"limits"`
}

// SMTP is [smtp]: postel as a client.
type SMTP struct {
	Port        int          `toml:"port"`
	Bind        []netip.Addr `toml:"bind"`
	TLS         TLSLevel     `toml:"tls"`
	Credentials string       `toml:"credentials"`
	Certificate string       `toml:"certificate"`
	Key         string       `toml:"key"`
}

// DNS is [dns].
type DNS struct {
	Servers []string `toml:"servers"`
}

// TLS is [tls]: postel as a server.
type TLS struct {
	Certificate    Files          `toml:"certificate"`
	Key            Files          `toml:"key"` // of the certificate in the same place
	SessionTickets bool           `toml:"session_tickets"`
	PlaintextLogin []netip.Prefix `toml:"plaintext_login"`
	ClientCA       string         `toml:"client_ca"` // "": clients are not asked
}

// Auth is [auth]: how users log in.
type Auth struct {
	TokenCheck Command `toml:"token_check"`
}

// SMTPD is [smtpd].
type SMTPD struct {
	VerifyRelay     bool           `toml:"verify_relay"`
	BareNewline     BareNewline    `toml:"bare_newline"`
	ProxyNetworks   []netip.Prefix `toml:"proxy_networks"`
	XclientNetworks []netip.Prefix `toml:"xclient_networks"`
}

// Screen is [screen].
type Screen struct {
	GreetDelay Duration      `toml:"greet_delay"`
	DNSLists   []screen.List `toml:"dns_lists"`
	RefuseAt   int           `toml:"refuse_at"`
	NoName     int           `toml:"no_name"`
	OwnName    bool          `toml:"own_name"`
	Greylist   Duration      `toml:"greylist"`
}

const (
	maxLists      = 20 // of [screen]
	maxGreetDelay = Duration(time.Minute)
	maxGreylist   = Duration(24 * time.Hour)
)

// Submission is [submission].
type Submission struct {
	Senders string `toml:"senders"`
}

// Queue is [queue].
type Queue struct {
	Lifetime       Duration   `toml:"lifetime"`
	BounceLifetime Duration   `toml:"bounce_lifetime"`
	Warn           Duration   `toml:"warn"`
	Retry          []Duration `toml:"retry"`
	Concurrency    int        `toml:"concurrency"`
	Processes      int        `toml:"processes"`
}

// Limits is [limits].
type Limits struct {
	MessageSize           Size `toml:"message_size"`
	Recipients            int  `toml:"recipients"`
	Connections           int  `toml:"connections"`
	ConnectionsPerClient  int  `toml:"connections_per_client"`
	ConnectionsPerNetwork int  `toml:"connections_per_network"` // 0 no limit
	RateConnections       int  `toml:"rate_connections"`        // 0 no limit
	RateMessages          int  `toml:"rate_messages"`
	RateRecipients        int  `toml:"rate_recipients"`
	SentPerHour           int  `toml:"sent_per_hour"` // recipients of one user; 0 no limit
	Hops                  int  `toml:"hops"`
	MinFree               Size `toml:"min_free"` // -1: queue.MinFree
}

// Load reads the file, or with "" $POSTEL_CONFIG, or DefaultFile. Only the last of the three may be missing.
func Load(file string) (*Config, error) {
	optional := false
	if file == "" {
		file = os.Getenv("POSTEL_CONFIG")
	}
	if file == "" {
		file, optional = DefaultFile, true
	}
	f, err := os.Open(file)
	if err != nil {
		if optional && errors.Is(err, os.ErrNotExist) {
			return Parse(strings.NewReader(""), file)
		}
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	defer f.Close()
	return Parse(f, file)
}

// maxFile bounds a configuration in octets.
const maxFile = 1 << 20

// Parse reads a configuration; name stands in front of errors as "name:line:column: ".
func Parse(r io.Reader, name string) (*Config, error) {
	c := &Config{
		Spool:              "/var/spool/postel",
		Users:              "system",
		Mailbox:            destination.Destination{Kind: destination.Maildir, Path: "~/Maildir"},
		Aliases:            "/etc/postel/aliases",
		Submit:             "/run/postel/submit.sock",
		RecipientDelimiter: "+",
		RelayNetworks:      []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		SMTP:               SMTP{Port: 25, Credentials: "/etc/postel/credentials"},
		TLS:                TLS{Certificate: Files{"/etc/postel/tls/cert.pem"}, Key: Files{"/etc/postel/tls/key.pem"}, SessionTickets: true},
		Screen:             Screen{RefuseAt: 3},
		Queue: Queue{Lifetime: Duration(5 * 24 * time.Hour), BounceLifetime: Duration(24 * time.Hour), Warn: Duration(4 * time.Hour),
			Retry:       []Duration{Duration(5 * time.Minute), Duration(4 * time.Hour)},
			Concurrency: 20, Processes: 100},
		Limits: Limits{MessageSize: 50 << 20, Recipients: 1000, Connections: 500, ConnectionsPerClient: 50, ConnectionsPerNetwork: -1, Hops: 50, MinFree: -1},
	}
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = errors.New("larger than 1 MiB")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read configuration: %s: %w", name, err)
	}
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(c); err != nil {
		return nil, position(name, string(text), err)
	}
	if c.Hostname == "" {
		if c.Hostname, err = hostname(); err != nil {
			return nil, fmt.Errorf("%s: hostname is not set and the host's own cannot be had: %w", name, err)
		}
	}
	own := Domain{strings.ToLower(c.Hostname)}
	if c.Domains == nil || len(c.Domains) > 0 && !slices.Contains(c.Domains, own) {
		c.Domains = append(c.Domains, own) // names without a domain, and reports, are completed with it
	}
	if c.Limits.ConnectionsPerNetwork == -1 {
		c.Limits.ConnectionsPerNetwork = 2 * c.Limits.ConnectionsPerClient
	}
	if key, err := c.check(); err != nil {
		return nil, fmt.Errorf("%s%s: %s: %w", name, locate(string(text), key), key, err)
	}
	return c, nil
}

// locate gives ":line:column" of the value of a key in a file that has been parsed; "" where the file does not name it.
func locate(text, key string) string {
	var table string
	for n, line := range slices.Collect(strings.Lines(text)) {
		word := strings.TrimSpace(line)
		if strings.HasPrefix(word, "[") && !strings.Contains(word, "=") {
			table = strings.Trim(strings.Fields(word + " #")[0], "[]") + "."
			continue
		}
		left, right, ok := strings.Cut(line, "=")
		if ok && table+strings.Trim(strings.TrimSpace(left), `"'`) == key {
			column := len(left) + 1 + len(right) - len(strings.TrimLeft(right, " \t"))
			return fmt.Sprintf(":%d:%d", n+1, column+1)
		}
	}
	return ""
}

// position writes go-toml's errors, which know line and column, in one line each.
func position(name, text string, err error) error {
	var missing *toml.StrictMissingError
	if errors.As(err, &missing) {
		var all []error
		for _, e := range missing.Errors {
			row, col := e.Position()
			hint := ""
			if e.Key()[0] == "routes" {
				hint = "; a domain is written in quotes"
			}
			all = append(all, fmt.Errorf("%s:%d:%d: unknown key %q%s", name, row, col, strings.Join(e.Key(), "."), hint))
		}
		return errors.Join(all...)
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		row, col := bad.Position()
		key, where := strings.Join(bad.Key(), "."), fmt.Sprintf(":%d:%d", row, col)
		if row == 1 && col == 1 { // that is also what it says when it does not know
			where = cmp.Or(locate(text, key), where)
		}
		why := strings.TrimPrefix(bad.Error(), "toml: ")
		if what, _, ok := strings.Cut(why, " into "); ok { // the rest names Go types
			why = strings.Replace(what, "cannot decode TOML", "this key takes no", 1)
		}
		if what, ok := strings.CutPrefix(why, "netip.ParsePrefix("); ok { // in words that do not name the function
			what, _, _ = strings.Cut(what, "):")
			why = what + " is not a network: write ADDRESS/BITS; for one host, /32 behind IPv4 and /128 behind IPv6"
		}
		if key != "" {
			why = key + ": " + why
		}
		return fmt.Errorf("%s%s: %s", name, where, why)
	}
	return fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "toml: "))
}

// check finds what no single value shows, and gives the key that is wrong.
func (c *Config) check() (key string, err error) {
	q, l := c.Queue, c.Limits
	for _, n := range []struct {
		key   string
		value int
	}{{"queue.concurrency", q.Concurrency}, {"queue.processes", q.Processes}, {"limits.connections", l.Connections},
		{"limits.connections_per_client", l.ConnectionsPerClient}, {"limits.hops", l.Hops}} {
		if n.value < 1 {
			return n.key, errors.New("must be 1 or more")
		}
	}
	for _, n := range []struct {
		key   string
		value int
	}{{"limits.connections_per_network", l.ConnectionsPerNetwork}, {"limits.rate_connections", l.RateConnections},
		{"limits.rate_messages", l.RateMessages}, {"limits.rate_recipients", l.RateRecipients}, {"limits.sent_per_hour", l.SentPerHour}} {
		if n.value < 0 {
			return n.key, errors.New("must be 0, for no limit, or more")
		}
	}
	for _, d := range []struct {
		key   string
		value []Duration
	}{{"queue.lifetime", []Duration{q.Lifetime}}, {"queue.bounce_lifetime", []Duration{q.BounceLifetime}}, {"queue.warn", []Duration{q.Warn}}, {"queue.retry", q.Retry},
		{"screen.greet_delay", []Duration{c.Screen.GreetDelay}}, {"screen.greylist", []Duration{c.Screen.Greylist}}} {
		for _, v := range d.value {
			if v != 0 && v < Duration(time.Second) { // a bare number is nanoseconds to go-toml
				return d.key, errors.New("a duration has a unit and stands in quotes; write \"30s\", \"5m\", \"4h\" or \"5d\"")
			}
		}
	}
	switch {
	case address.CheckDomain(c.Hostname) != nil || strings.Contains(c.Hostname, "_"):
		return "hostname", fmt.Errorf("%q is not a host name", c.Hostname)
	case !strings.HasPrefix(c.Spool, "/"):
		return "spool", fmt.Errorf("%q is not an absolute path", c.Spool)
	case len(q.Retry) != 2 || q.Retry[0] <= 0 || q.Retry[1] < q.Retry[0]:
		return "queue.retry", errors.New("two durations are needed, the first wait and the longest")
	case q.Lifetime <= 0:
		return "queue.lifetime", errors.New("must be longer than nothing")
	case q.BounceLifetime <= 0:
		return "queue.bounce_lifetime", errors.New("must be longer than nothing")
	case c.Screen.GreetDelay > maxGreetDelay:
		return "screen.greet_delay", errors.New("must be a minute or less: clients wait five at most (RFC 5321 4.5.3.2.1)")
	case c.Screen.Greylist > maxGreylist:
		return "screen.greylist", errors.New("must be a day or less")
	case len(c.Screen.DNSLists) > maxLists:
		return "screen.dns_lists", fmt.Errorf("the list has more than %d lists", maxLists)
	case c.Screen.RefuseAt < 1:
		return "screen.refuse_at", errors.New("must be 1 or more")
	case c.Screen.NoName < 0 || c.Screen.NoName > 100:
		return "screen.no_name", errors.New("must be from 0 to 100")
	case c.SMTP.Port < 1 || c.SMTP.Port > 65535:
		return "smtp.port", fmt.Errorf("%d is not a port", c.SMTP.Port)
	case c.SMTP.Certificate == "" && c.SMTP.Key != "":
		return "smtp.key", errors.New("smtp.certificate is missing")
	case c.SMTP.Certificate != "" && c.SMTP.Key == "":
		return "smtp.certificate", errors.New("smtp.key is missing")
	case len(c.TLS.Certificate) == 0 || len(c.TLS.Certificate) > maxCertificates:
		return "tls.certificate", fmt.Errorf("1 to %d files are needed", maxCertificates)
	case len(c.TLS.Key) != len(c.TLS.Certificate):
		return "tls.key", fmt.Errorf("there are %d keys and %d certificates", len(c.TLS.Key), len(c.TLS.Certificate))
	case len(c.Auth.TokenCheck) > 0 && !strings.HasPrefix(c.Auth.TokenCheck[0], "/"):
		return "auth.token_check", fmt.Errorf("%q is not an absolute path", c.Auth.TokenCheck[0])
	case c.TLS.ClientCA != "" && !strings.HasPrefix(c.TLS.ClientCA, "/"):
		return "tls.client_ca", fmt.Errorf("%q is not an absolute path", c.TLS.ClientCA)
	case c.Submission.Senders != "" && !strings.HasPrefix(c.Submission.Senders, "/"):
		return "submission.senders", fmt.Errorf("%q is not an absolute path", c.Submission.Senders)
	case l.Recipients < 100:
		return "limits.recipients", errors.New("must be 100 or more (RFC 5321 4.5.3.1.8)")
	case l.MessageSize < 64<<10:
		return "limits.message_size", errors.New("must be 64KiB or more (RFC 5321 4.5.3.1.7)")
	case !c.Mailbox.IsLocal():
		return "mailbox", fmt.Errorf("%q must be maildir:PATH or mbox:PATH", c.Mailbox)
	case !strings.HasPrefix(c.Users, "/") && c.Users != "system" && !strings.HasPrefix(c.Users, "checkpassword:/"):
		return "users", fmt.Errorf("%q is neither \"system\", an absolute path nor checkpassword:/PROGRAM", c.Users)
	}
	for _, n := range []struct {
		key   string
		value []netip.Prefix
	}{{"relay_networks", c.RelayNetworks}, {"tls.plaintext_login", c.TLS.PlaintextLogin}, {"smtpd.proxy_networks", c.SMTPD.ProxyNetworks},
		{"smtpd.xclient_networks", c.SMTPD.XclientNetworks}} {
		for _, p := range n.value {
			if p.Addr().Is4In6() { // no client has such an address here
				return n.key, fmt.Errorf("%s is IPv4 in the form of IPv6; write it as IPv4", p)
			}
		}
	}
	seen := map[string]bool{}
	for domain, hops := range c.Routes {
		key, err := routeKey(domain)
		if err == nil {
			err = hops.check()
		}
		if err == nil && seen[key] {
			err = fmt.Errorf("there is another route for %s", key)
		}
		if err != nil {
			return "routes." + domain, err
		}
		seen[key] = true
	}
	for _, server := range c.DNS.Servers {
		_, withPort := netip.ParseAddrPort(server)
		if _, err := netip.ParseAddr(server); err != nil && withPort != nil {
			return "dns.servers", fmt.Errorf("%q is neither ADDRESS nor ADDRESS:PORT", server)
		}
	}
	return "", nil
}

// hostname is the host's own full name: the kernel's when it has a dot, else the first alias in /etc/hosts that completes it.
func hostname() (string, error) {
	name, err := os.Hostname()
	if err != nil || strings.Contains(name, ".") {
		return name, err
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		return name, nil // a short name is all there is; CheckDomain judges it
	}
	return fullName(name, string(hosts)), nil
}

// fullName is the first alias in hosts(5) that completes name, or name.
func fullName(name, hosts string) string {
	for line := range strings.Lines(hosts) {
		line, _, _ = strings.Cut(line, "#")
		for _, alias := range strings.Fields(line) {
			if strings.HasPrefix(alias, name+".") {
				return alias
			}
		}
	}
	return name
}

// Domain is a domain name in lower case. It is a struct because go-toml passes strings by UnmarshalText.
type Domain struct{ name string }

// UnmarshalText reads a domain.
func (d *Domain) UnmarshalText(b []byte) error {
	if err := address.CheckDomain(string(b)); err != nil {
		return fmt.Errorf("%q: %w", b, err)
	}
	a, err := address.ASCIIDomain(string(b))
	*d = Domain{a}
	return err
}

// Strings gives domains as plain strings.
func Strings(domains []Domain) []string {
	s := make([]string, len(domains))
	for i, d := range domains {
		s[i] = d.name
	}
	return s
}

// Hops are the next hops of a route in the order in which they are tried: one destination as a string, or a list of them.
type Hops []destination.Destination

// UnmarshalText reads a single one; a list comes as one by itself.
func (h *Hops) UnmarshalText(b []byte) error {
	d, err := destination.Parse(string(b))
	*h = Hops{d}
	return err
}

// Files are names of files: one as a string, or a list of them.
type Files []string

// Command is a program, an absolute path, and its arguments; nil is none. It is written as one string, in the words of destination.SplitWords.
type Command []string

// UnmarshalText reads a command.
func (c *Command) UnmarshalText(b []byte) error {
	words, err := destination.SplitWords(string(b))
	*c = words
	return err
}

// maxCertificates bounds those of [tls].
const maxCertificates = 100

// UnmarshalText reads a single one; a list comes as one by itself.
func (f *Files) UnmarshalText(b []byte) error {
	*f = Files{string(b)}
	return nil
}

// maxHops bounds the next hops of a route.
const maxHops = 10

// check sees that there is a next hop, and that several are all hosts: what a program says is final.
func (h Hops) check() error {
	switch {
	case len(h) == 0:
		return errors.New("the list has no destination")
	case len(h) > maxHops:
		return fmt.Errorf("the list has more than %d destinations", maxHops)
	case len(h) == 1:
		return nil
	}
	for _, d := range h {
		if !d.IsHost() {
			return fmt.Errorf("%q cannot stand in a list; only smtp:, smtps:, lmtp: and mx: can", d)
		}
	}
	return nil
}

// routeKey gives the key of a route as it is looked up: a domain in lower case and with A-labels, ".domain" or "*".
func routeKey(key string) (string, error) {
	domain, ofParent := strings.CutPrefix(key, ".")
	if key == "*" {
		return key, nil
	}
	if address.CheckDomain(domain) != nil {
		return "", errors.New("the key is neither a domain, .domain nor *")
	}
	domain, err := address.ASCIIDomain(domain)
	if ofParent {
		domain = "." + domain
	}
	return domain, err
}

// RouteTable gives the routes as plain values, each by its domain in lower case and with A-labels.
func (c *Config) RouteTable() map[string][]destination.Destination {
	table := make(map[string][]destination.Destination, len(c.Routes))
	for domain, hops := range c.Routes {
		if key, err := routeKey(domain); err == nil { // Parse has seen that it is
			table[key] = hops
		}
	}
	return table
}

// TLSLevel is how much TLS the client wants.
type TLSLevel int

// The levels, as they are written.
const (
	TLSOpportunistic TLSLevel = iota
	TLSOff
	TLSRequire
)

// UnmarshalText reads a level.
func (l *TLSLevel) UnmarshalText(b []byte) error {
	for i, name := range []string{"opportunistic", "off", "require"} {
		if string(b) == name {
			*l = TLSLevel(i)
			return nil
		}
	}
	return fmt.Errorf("%q is none of off, opportunistic, require", b)
}

// BareNewline is what becomes of a CR or LF in a message that is not part of CRLF.
type BareNewline int

// The ways, as they are written.
const (
	BareNewlineRefuse BareNewline = iota
	BareNewlineNormalise
)

// UnmarshalText reads a way.
func (n *BareNewline) UnmarshalText(b []byte) error {
	for i, name := range []string{"refuse", "normalise"} {
		if string(b) == name {
			*n = BareNewline(i)
			return nil
		}
	}
	return fmt.Errorf("%q is neither refuse nor normalise", b)
}

// Duration is written 30s, 5m, 4h, 5d, or joined as 1h30m.
type Duration time.Duration

// ParseDuration reads a duration: decimal numbers each followed by s, m, h or d, up to a hundred years.
func ParseDuration(s string) (time.Duration, error) {
	const longest = 100 * 365 * 24 * time.Hour
	var total, n time.Duration
	digits := 0
	for i := range len(s) {
		if s[i] >= '0' && s[i] <= '9' {
			if n = n*10 + time.Duration(s[i]-'0'); n > longest {
				return 0, fmt.Errorf("%q is longer than a hundred years", s)
			}
			digits++
			continue
		}
		u := unit(s[i])
		if u == 0 || digits == 0 {
			return 0, notDuration(s)
		}
		if n > longest/u || total > longest-n*u {
			return 0, fmt.Errorf("%q is longer than a hundred years", s)
		}
		total, n, digits = total+n*u, 0, 0
	}
	if s == "" || digits > 0 {
		return 0, notDuration(s)
	}
	return total, nil
}

func notDuration(s string) error {
	return fmt.Errorf("%q is not a duration; write 30s, 5m, 4h or 5d", s)
}

func unit(c byte) time.Duration {
	switch c {
	case 's':
		return time.Second
	case 'm':
		return time.Minute
	case 'h':
		return time.Hour
	case 'd':
		return 24 * time.Hour
	}
	return 0
}

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Size is a number of octets, written 64KiB or 50MiB.
type Size int64

// UnmarshalText reads a size.
func (s *Size) UnmarshalText(b []byte) error {
	number := strings.TrimRight(string(b), "BKMGi")
	shift, ok := map[string]int{"B": 0, "KiB": 10, "MiB": 20, "GiB": 30}[string(b[len(number):])]
	n, err := strconv.ParseUint(number, 10, 40) // a terabyte of octets, a million times GiB
	if !ok || err != nil {
		return fmt.Errorf("%q is not a size; write 64KiB, 50MiB or 1GiB", b)
	}
	if n > (1<<62)>>shift {
		return fmt.Errorf("%q is too large", b)
	}
	*s = Size(n << shift)
	return nil
}
