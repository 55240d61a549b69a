package sink

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// session is one connection.
type session struct {
	sink *Sink
	b    *Behaviour
	addr string
	n    int
	conn net.Conn // raw, or TLS on it
	r    *bufio.Reader
	w    *bufio.Writer
	left int64 // octets until the connection is closed

	times map[string]int // each step in this connection; "rcpt" in this transaction
	gone  bool
	tls   bool
	helo  string
	user  string

	mail    *Message // the transaction; nil outside
	content *content // BDAT has begun
}

func newSession(s *Sink, b *Behaviour, conn net.Conn, addr string, n int) *session {
	c := &session{sink: s, b: b, addr: addr, n: n, left: b.Octets, times: map[string]int{}}
	if b.ImplicitTLS {
		conn, c.tls = tls.Server(conn, s.tls()), true
	}
	c.on(conn)
	return c
}

func (c *session) on(conn net.Conn) {
	c.conn, c.r, c.w = conn, bufio.NewReader(input{c}), bufio.NewWriterSize(conn, 1024)
}

// input sends the replies before it reads, and counts.
type input struct{ c *session }

var errOctets = errors.New("sink: enough octets")

func (in input) Read(p []byte) (int, error) {
	c := in.c
	if err := c.w.Flush(); err != nil {
		return 0, err
	}
	if c.b.Octets > 0 {
		if c.left <= 0 {
			return 0, errOctets
		}
		p = p[:min(int64(len(p)), c.left)]
	}
	n, err := c.conn.Read(p)
	c.left -= int64(n)
	return n, err
}

func (c *session) run() {
	if code := c.answer("connect", nil, "220 "+c.b.Name+" ESMTP sink"); code >= 400 && !c.gone { // RFC 5321 3.1
		for line, ok := c.line(); ok && !strings.EqualFold(line, "QUIT"); line, ok = c.line() {
			c.say("503 5.5.1 No service here")
		}
		c.gone = true
	}
	for !c.gone {
		line, ok := c.line()
		if !ok {
			break
		}
		c.command(line)
	}
	c.w.Flush()
}

// line reads a command.
func (c *session) line() (string, bool) {
	b, err := c.r.ReadSlice('\n')
	if err != nil {
		return "", false
	}
	text, ok := bytes.CutSuffix(b, []byte("\r\n"))
	if !ok {
		c.sink.reach("violation")
		text = bytes.TrimSuffix(b, []byte("\n"))
	}
	return string(text), true
}

func (c *session) say(reply string) {
	c.w.WriteString(reply)
	c.w.WriteString("\r\n")
}

// answer answers a step: as the first rule that fits says, or else as usual. It gives the code; 0 when the connection is to be closed without an answer.
func (c *session) answer(step string, to []string, usual string) int {
	c.sink.reach(step)
	c.times[step]++
	from := ""
	if c.mail != nil {
		from = strings.ToLower(c.mail.From)
	}
	reply := usual
	for i := range c.b.Rules {
		r := &c.b.Rules[i]
		if !r.fits(step, c.times[step], from, to) {
			continue
		}
		if key := ""; r.First > 0 {
			if step == "rcpt" {
				key = to[0]
			}
			if !c.sink.again(r, key) {
				continue
			}
		}
		if r.Delay > 0 && !c.wait(r.Delay) || r.Do == Hang && !c.hang() || r.Do == Leave {
			c.gone = true
			return 0
		}
		if r.Do == Say {
			reply = r.Reply
			break
		}
	}
	c.say(reply)
	code, _ := strconv.Atoi(reply[:3])
	c.gone = c.gone || code == 421 || code == 221
	return code
}

// wait lets time pass.
func (c *session) wait(d time.Duration) bool {
	if c.w.Flush() != nil {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.sink.done:
		return false
	}
}

// hang waits for Release; false when the client went away instead.
func (c *session) hang() bool {
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-c.sink.free:
			_ = c.conn.SetReadDeadline(time.Unix(1, 0))
		case <-over:
		}
	}()
	for {
		if n := c.r.Buffered(); n < c.r.Size() {
			if _, err := c.r.Peek(n + 1); err == nil {
				continue // it waits for the answer, and says more meanwhile
			}
		}
		select {
		case <-c.sink.free:
			return c.conn.SetReadDeadline(time.Time{}) == nil
		case <-c.sink.done:
			return false
		default:
		}
		if c.r.Buffered() < c.r.Size() {
			return false
		}
		select { // no room to see it go
		case <-c.sink.free:
		case <-c.sink.done:
		}
	}
}

// offers reports whether EHLO offers an extension.
func (c *session) offers(keyword string) bool {
	return slices.ContainsFunc(c.b.Extensions, func(line string) bool {
		word, _, _ := strings.Cut(line, " ")
		return strings.EqualFold(word, keyword)
	})
}

func (c *session) command(line string) {
	verb, arg, _ := strings.Cut(line, " ")
	verb = strings.ToUpper(verb)
	if verb != "BDAT" && c.r.Buffered() > 0 && !c.offers("PIPELINING") {
		c.sink.reach("violation")
		c.say("503 5.5.0 PIPELINING was not offered")
		c.gone = true
		return
	}
	switch verb {
	case "HELO", "EHLO", "LHLO":
		c.hello(verb, arg)
	case "MAIL":
		c.doMAIL(arg)
	case "RCPT":
		c.doRCPT(arg)
	case "DATA":
		c.doDATA()
	case "BDAT":
		c.doBDAT(arg)
	case "STARTTLS":
		c.doSTARTTLS()
	case "AUTH":
		c.doAUTH(arg)
	case "RSET":
		c.mail, c.content = nil, nil
		c.answer("rset", nil, "250 2.0.0 Ok")
	case "NOOP":
		c.answer("noop", nil, "250 2.0.0 Ok")
	case "QUIT":
		c.answer("quit", nil, "221 2.0.0 Bye")
		c.gone = true
	default:
		c.say("500 5.5.1 Command not recognized")
	}
}

func (c *session) hello(verb, name string) {
	if c.b.LMTP != (verb == "LHLO") {
		c.say("500 5.5.1 Wrong protocol")
		return
	}
	c.helo, c.mail, c.content = name, nil, nil
	lines := []string{c.b.Name}
	if verb != "HELO" {
		for _, ext := range c.b.Extensions {
			if !c.tls || ext != "STARTTLS" {
				lines = append(lines, ext)
			}
		}
	}
	last := len(lines) - 1
	for i := range lines[:last] {
		lines[i] = "250-" + lines[i]
	}
	lines[last] = "250 " + lines[last]
	c.answer("ehlo", nil, strings.Join(lines, "\r\n"))
}

// address takes "TO:<address> PARAM..." apart.
func address(arg, keyword string) (addr, params string, ok bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return "", "", false
	}
	arg = strings.TrimSpace(arg[len(keyword):])
	end := strings.LastIndexByte(arg, '>')
	if end < 0 || arg[0] != '<' {
		return "", "", false
	}
	return arg[1:end], strings.TrimSpace(arg[end+1:]), true
}

// extensionOf is what must be offered for a parameter of MAIL or RCPT.
var extensionOf = map[string]string{"SIZE": "SIZE", "BODY": "8BITMIME", "SMTPUTF8": "SMTPUTF8", "RET": "DSN", "ENVID": "DSN", "NOTIFY": "DSN", "ORCPT": "DSN", "AUTH": "AUTH"}

// refused answers parameters that were not offered, or a size that is too large.
func (c *session) refused(params string) bool {
	for param := range strings.FieldsSeq(params) {
		name, value, _ := strings.Cut(param, "=")
		name = strings.ToUpper(name)
		if ext := extensionOf[name]; ext == "" || !c.offers(ext) {
			c.sink.reach("violation")
			c.say("555 5.5.4 Parameter was not offered: " + name)
			return true
		}
		if n, _ := strconv.ParseInt(value, 10, 64); name == "SIZE" && n > c.maxSize() {
			c.say("552 5.3.4 Message too large")
			return true
		}
	}
	return false
}

// maxSize is what "SIZE N" among the extensions says.
func (c *session) maxSize() int64 {
	for _, ext := range c.b.Extensions {
		if digits, ok := strings.CutPrefix(ext, "SIZE "); ok {
			if n, err := strconv.ParseInt(digits, 10, 64); err == nil && n > 0 {
				return n
			}
		}
	}
	return 1 << 62
}

func (c *session) doMAIL(arg string) {
	from, params, ok := address(arg, "FROM:")
	switch {
	case c.mail != nil || c.helo == "":
		c.say("503 5.5.1 Bad sequence of commands")
		return
	case !ok:
		c.say("501 5.5.4 Syntax: MAIL FROM:<address>")
		return
	case c.refused(params):
		return
	}
	c.mail = &Message{Listener: c.addr, Conn: c.n, Helo: c.helo, TLS: c.tls, User: c.user, From: from, Params: params}
	c.times["rcpt"] = 0
	if c.answer("mail", nil, "250 2.1.0 Ok")/100 != 2 {
		c.mail = nil
	}
}

func (c *session) doRCPT(arg string) {
	to, params, ok := address(arg, "TO:")
	switch {
	case c.mail == nil || c.content != nil:
		c.say("503 5.5.1 Bad sequence of commands")
		return
	case !ok:
		c.say("501 5.5.4 Syntax: RCPT TO:<address>")
		return
	case c.refused(params):
		return
	}
	if c.answer("rcpt", []string{strings.ToLower(to)}, "250 2.1.5 Ok")/100 == 2 {
		c.mail.To, c.mail.ToParams = append(c.mail.To, to), append(c.mail.ToParams, params)
	}
}

func (c *session) doDATA() {
	switch {
	case c.mail == nil || c.content != nil:
		c.say("503 5.5.1 Bad sequence of commands")
		return
	case len(c.mail.To) == 0:
		c.say("554 5.5.1 No valid recipients")
		return
	}
	if c.answer("data", nil, "354 End data with <CR><LF>.<CR><LF>")/100 != 3 {
		c.mail = nil
		return
	}
	t := &content{keep: c.sink.Keep}
	for start := true; ; {
		line, err := c.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			c.gone = true
			return
		}
		if start && line[0] == '.' {
			if string(line) == ".\r\n" {
				break
			}
			line = line[1:]
		}
		split := t.cr && string(line) == "\n" // behind a full buffer
		t.write(line)
		start = split || bytes.HasSuffix(line, []byte("\r\n"))
	}
	c.dot(t)
}

func (c *session) doBDAT(arg string) {
	digits, last, _ := strings.Cut(arg, " ")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || last != "" && !strings.EqualFold(last, "LAST") || !c.offers("CHUNKING") {
		c.sink.reach("violation")
		c.say("503 5.5.1 What follows cannot be told from commands")
		c.gone = true
		return
	}
	t := c.content
	if t == nil {
		t = &content{keep: c.sink.Keep}
	}
	if _, err := io.CopyN(t, c.r, n); err != nil {
		c.gone = true
		return
	}
	switch {
	case c.mail == nil || len(c.mail.To) == 0:
		c.say("503 5.5.1 No valid recipients")
		return
	case c.content == nil:
		c.content = t
		c.mail.Chunked = true
		if last == "" && c.answer("data", nil, "250 2.0.0 Ok")/100 != 2 {
			c.mail, c.content = nil, nil
		}
	case last == "":
		c.say("250 2.0.0 Ok")
	}
	if last != "" {
		c.dot(t)
	}
}

// dot answers the end of a message, in LMTP once for each recipient.
func (c *session) dot(t *content) {
	m := c.mail
	t.end(m)
	each := [][]string{m.To}
	if c.b.LMTP {
		each = nil
		for i := range m.To {
			each = append(each, m.To[i:i+1])
		}
	}
	var took, params []string
	for i, to := range each {
		lower := make([]string, len(to))
		for k := range to {
			lower[k] = strings.ToLower(to[k])
		}
		usual := "250 2.0.0 Ok"
		if m.Size > c.maxSize() {
			usual = "552 5.3.4 Message too large"
		}
		if c.answer("dot", lower, usual)/100 == 2 {
			took, params = append(took, to...), append(params, m.ToParams[i:i+len(to)]...)
		}
		if c.gone {
			break
		}
	}
	if m.To, m.ToParams = took, params; len(took) > 0 {
		c.sink.record(*m)
	}
	c.mail, c.content = nil, nil
}

func (c *session) doSTARTTLS() {
	if c.tls || !c.offers("STARTTLS") {
		c.say("502 5.5.1 Not offered")
		return
	}
	if c.r.Buffered() > 0 { // RFC 3207 6
		c.sink.reach("violation")
	}
	if c.answer("starttls", nil, "220 2.0.0 Go ahead") != 220 || c.w.Flush() != nil {
		return
	}
	c.tls, c.helo, c.user, c.mail, c.content = true, "", "", nil, nil
	c.on(tls.Server(c.conn, c.sink.tls()))
}

// doAUTH knows PLAIN (RFC 4616) and LOGIN.
func (c *session) doAUTH(arg string) {
	mechanism, initial, _ := strings.Cut(arg, " ")
	var user, password string
	switch {
	case !c.offers("AUTH"):
		c.say("502 5.5.1 Not offered")
		return
	case strings.EqualFold(mechanism, "PLAIN"):
		parts := strings.Split(c.response(initial, ""), "\x00")
		if len(parts) == 3 {
			user, password = parts[1], parts[2]
		}
	case strings.EqualFold(mechanism, "LOGIN"):
		user = c.response(initial, "VXNlcm5hbWU6")
		password = c.response("", "UGFzc3dvcmQ6")
	default:
		c.say("504 5.5.4 Unknown mechanism")
		return
	}
	usual := "535 5.7.8 Authentication credentials invalid"
	if want, ok := c.b.Users[user]; ok && want == password {
		usual = "235 2.7.0 Authentication successful"
	}
	if c.answer("auth", nil, usual) == 235 {
		c.user = user
	}
}

// response is what the client says to a challenge, in Base64, if it did not say it with the command.
func (c *session) response(initial, challenge string) string {
	if initial == "" {
		c.say("334 " + challenge)
		initial, _ = c.line()
	}
	b, _ := base64.StdEncoding.DecodeString(initial) // what is no Base64 is no password
	return string(b)
}
