package sasl

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/postel-mail/postel/internal/password"
	"github.com/postel-mail/postel/internal/saslclient"
	"github.com/postel-mail/postel/internal/status"
)

var errWrong = status.Permanent(535, "5.7.8", "wrong password", nil)

var errBroken = errors.New("the table is broken")

// secret is bob's, as a table keeps it.
func secret(t testing.TB) password.Secret {
	s, err := password.Parse("{PLAIN}se cret")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// keys are bob's, which take a while to derive.
var keys = sync.OnceValue(func() password.Scram {
	s, _ := password.Parse("{PLAIN}se cret")
	k, _ := password.ScramOf(s, []byte("some salt"))
	return k
})

// checks know bob, whose token is "tok" and who may be bob@own.example by a certificate of that name.
func checks(t testing.TB) *Checks {
	bob := secret(t)
	return &Checks{
		Password: func(_ context.Context, user, password string) (string, error) {
			switch {
			case user == "broken":
				return "", errBroken
			case user == "bob" && bob.Match(password):
				return "bob@own.example", nil
			}
			return "", errWrong
		},
		Scram: func(_ context.Context, user string) (string, password.Scram, error) {
			if user == "broken" {
				return "", password.Scram{}, errBroken
			}
			keys := keys()
			if user != "bob" && user != "a,b=c" {
				keys.StoredKey = slices.Repeat([]byte{7}, 32)
			}
			return user + "@own.example", keys, nil
		},
		CanScram: func() bool { return true },
		Token: func(_ context.Context, user, token string) (string, error) {
			switch {
			case user == "broken":
				return "", errBroken
			case (user == "bob" || user == "") && token == "tok":
				return "bob@own.example", nil
			}
			return "", errWrong
		},
		Names: func(_ context.Context, user string, names []string) (string, error) {
			if slices.Contains(names, "bob@own.example") && (user == "" || user == "bob") {
				return "bob@own.example", nil
			}
			return "", errWrong
		},
	}
}

// bound is a channel with both kinds of binding, and a certificate of bob's.
var bound = Channel{Names: []string{"bob@own.example"}, Binding: func(kind string) []byte {
	switch kind {
	case Exporter:
		return []byte("what is exported")
	case EndPoint:
		return []byte("hash of a certificate")
	}
	return nil
}}

// none stands for a response that the client has not sent.
const none = "<none>"

func TestExchanges(t *testing.T) {
	const ok, token = "\x01auth=Bearer tok\x01\x01", "\x01auth=Bearer wrong\x01\x01"
	for _, tt := range []struct {
		mechanism  string
		responses  []string
		challenges []string
		want       error
	}{
		{Plain, []string{"\x00bob\x00se cret"}, nil, nil},
		{Plain, []string{none, "bob\x00bob\x00se cret"}, []string{""}, nil},
		{Plain, []string{"\x00bob\x00wrong"}, nil, errWrong},
		{Plain, []string{"\x00bob\x00"}, nil, errWrong},
		{Plain, []string{"\x00broken\x00x"}, nil, errBroken},
		{Plain, []string{"\x00stopped\x00se cret"}, nil, errStop},
		{Plain, []string{"alice\x00bob\x00se cret"}, nil, ErrIdentity},
		{Plain, []string{"bob\x00se cret"}, nil, ErrMalformed},
		{Plain, []string{"\x00bob\x00se cret\x00"}, nil, ErrMalformed},
		{Plain, []string{""}, nil, ErrMalformed},
		{Plain, []string{"\x00\x00se cret"}, nil, ErrMalformed},
		{Plain, []string{"\x00bo\nb\x00se cret"}, nil, ErrMalformed},
		{Plain, []string{"\x00bo\xffb\x00se cret"}, nil, ErrMalformed},
		{Plain, []string{"\x00" + strings.Repeat("b", 256) + "\x00se cret"}, nil, ErrMalformed},
		{Plain, []string{"\x00bob\x00" + strings.Repeat("b", 1025)}, nil, ErrMalformed},

		{Login, []string{none, "bob", "se cret"}, []string{"Username:", "Password:"}, nil},
		{Login, []string{"bob", "se cret"}, []string{"Password:"}, nil},
		{Login, []string{none, "bob", "wrong"}, []string{"Username:", "Password:"}, errWrong},
		{Login, []string{none, "stopped", "se cret"}, []string{"Username:", "Password:"}, errStop},
		{Login, []string{none, "", "se cret"}, []string{"Username:", "Password:"}, ErrMalformed},

		{External, []string{""}, nil, nil},
		{External, []string{none, ""}, []string{""}, nil},
		{External, []string{"bob"}, nil, nil},
		{External, []string{"alice"}, nil, errWrong},
		{External, []string{"bo\x00b"}, nil, ErrMalformed},

		{OAuthBearer, []string{"n,a=bob," + ok}, nil, nil},
		{OAuthBearer, []string{none, "n,," + ok}, []string{""}, nil},
		{OAuthBearer, []string{"y,a=bob,\x01host=mail.own.example\x01port=587\x01auth=bearer   tok\x01\x01"}, nil, nil},
		{OAuthBearer, []string{"n,a=bob," + token, "\x01"}, []string{bearerRefused}, errWrong},
		{OAuthBearer, []string{"n,a=bob," + token, "what?"}, []string{bearerRefused}, errWrong},
		{OAuthBearer, []string{"n,a=bob,\x01auth=\x01\x01", "\x01"}, []string{bearerRefused}, errNoToken},
		{OAuthBearer, []string{"n,a=broken," + ok}, nil, errBroken},
		{OAuthBearer, []string{"n,a=stopped," + ok}, nil, errStop},
		{OAuthBearer, []string{"p=tls-exporter,a=bob," + ok}, nil, ErrMalformed},
		{OAuthBearer, []string{"n,bob," + ok}, nil, ErrMalformed},
		{OAuthBearer, []string{"n,a=bo=b," + ok}, nil, ErrMalformed},
		{OAuthBearer, []string{"n,a=bob" + ok}, nil, ErrMalformed},
		{OAuthBearer, []string{"n,a=bob,\x01auth=Bearer tok\x01"}, nil, ErrMalformed},
		{OAuthBearer, []string{"n,a=bob,\x01auth=Bearer tok\x01\x01x"}, nil, ErrMalformed},
		{OAuthBearer, []string{"n,a=bob,\x01auth=Bearer tok\x01auth=Bearer tok\x01\x01"}, nil, ErrMalformed},
		{OAuthBearer, []string{"n,a=bob,\x01auth=Basic tok\x01\x01"}, nil, ErrMalformed},
		{OAuthBearer, []string{"n,a=bob,\x01auth=Bearer t\nk\x01\x01"}, nil, ErrMalformed},
		{OAuthBearer, []string{"n,a=bob,\x01auth=Bearer t\"k\x01\x01"}, nil, ErrMalformed},
		{OAuthBearer, []string{"n,a=bob,\x01auth=Bearer t=k\x01\x01"}, nil, ErrMalformed},
		{OAuthBearer, []string{"n,a=bob,\x01auth=Bearer =\x01\x01"}, nil, ErrMalformed},
		{OAuthBearer, []string{"n,a=bob,\x01auth=Bearer wrong==\x01\x01", "\x01"}, []string{bearerRefused}, errWrong},
		{OAuthBearer, []string{"n,a=bob,\x01auth=Bearer " + strings.Repeat("t", 8193) + "\x01\x01"}, nil, ErrMalformed},
		{OAuthBearer, []string{"n,a=bob,\x01host=x\x01\x01"}, nil, ErrMalformed},
		{OAuthBearer, []string{"n,a=bob,\x01h\x00st=x\x01auth=Bearer tok\x01\x01"}, nil, ErrMalformed},
		{OAuthBearer, []string{""}, nil, ErrMalformed},

		{XOAuth2, []string{"user=bob" + ok}, nil, nil},
		{XOAuth2, []string{"user=bob" + token, ""}, []string{xoauth2Refused}, errWrong},
		{XOAuth2, []string{"user=" + ok}, nil, ErrMalformed},
		{XOAuth2, []string{"bob" + ok}, nil, ErrMalformed},
		{XOAuth2, []string{"user=bo\rb" + ok}, nil, ErrMalformed},

		{Scram, []string{"n,,n=bob,r=x,m=1"}, nil, ErrMalformed},
		{Scram, []string{"n,,m=1,n=bob,r=x"}, nil, ErrMalformed},
		{Scram, []string{"n,,n=bob,r="}, nil, ErrMalformed},
		{Scram, []string{"n,,n=bob,r=x y"}, nil, ErrMalformed},
		{Scram, []string{"n,,n=bob,r=" + strings.Repeat("x", 513)}, nil, ErrMalformed},
		{Scram, []string{"n,,n=bo=2cb,r=x"}, nil, ErrMalformed},
		{Scram, []string{"n,,n=,r=x"}, nil, ErrMalformed},
		{Scram, []string{"n,,bob,r=x"}, nil, ErrMalformed},
		{Scram, []string{"n,a,n=bob,r=x"}, nil, ErrMalformed},
		{Scram, []string{"x,,n=bob,r=x"}, nil, ErrMalformed},
		{Scram, []string{"n"}, nil, ErrMalformed},
		{Scram, []string{"n,,n=stopped,r=x"}, nil, errStop},
		{Scram, []string{"n,,n=broken,r=x"}, nil, errBroken},
		{Scram, []string{"n,a=alice,n=bob,r=x"}, nil, ErrIdentity},
		{Scram, []string{"p=tls-exporter,,n=bob,r=x"}, nil, ErrMalformed}, // has to take -PLUS
		{Scram, []string{"y,,n=bob,r=x"}, nil, ErrProof},                  // we offered -PLUS, and the client has not seen it
		{ScramPlus, []string{"n,,n=bob,r=x"}, nil, ErrMalformed},
		{ScramPlus, []string{"y,,n=bob,r=x"}, nil, ErrMalformed},
		{ScramPlus, []string{"p=tls-unique,,n=bob,r=x"}, nil, ErrMalformed},
		{ScramPlus, []string{"p=,,n=bob,r=x"}, nil, ErrMalformed},
	} {
		on := bound
		on.Try = func(user string) error {
			if user == "stopped" {
				return errStop
			}
			return nil
		}
		e := checks(t).New(tt.mechanism, on)
		var challenges []string
		var done bool
		var err error
		for _, r := range tt.responses {
			var challenge, response []byte
			if r != none {
				response = append([]byte{}, r...)
			}
			if challenge, done, err = e.Next(t.Context(), response); err != nil || done {
				break
			}
			challenges = append(challenges, string(challenge))
		}
		same := errors.Is(err, tt.want) || tt.want == errNoToken && err != nil && status.Of(err).Code == 535
		if !same || err == nil && (!done || tt.want != nil) || !slices.Equal(challenges, tt.challenges) {
			t.Errorf("%s %q: got %q, done %v, %v; want %q, %v", tt.mechanism, tt.responses, challenges, done, err, tt.challenges, tt.want)
		}
		if login := e.Login; (login != "") != done || done && login != "bob@own.example" {
			t.Errorf("%s %q: login %q, done %v", tt.mechanism, tt.responses, login, done)
		}
	}
}

var (
	errStop    = errors.New("no more")
	errNoToken = errors.New("no token, with the status 535")
)

// TestOffer: what is offered is there, and nothing else.
func TestOffer(t *testing.T) {
	all := []string{External, ScramPlus, Scram, Plain, Login, OAuthBearer, XOAuth2}
	without := func(change func(*Checks)) *Checks { c := checks(t); change(c); return c }
	for i, tt := range []struct {
		checks *Checks
		on     Channel
		want   string
	}{
		{checks(t), bound, strings.Join(all, " ")},
		{checks(t), Channel{}, "SCRAM-SHA-256 PLAIN LOGIN OAUTHBEARER XOAUTH2"},
		{checks(t), Channel{Binding: func(string) []byte { return nil }}, "SCRAM-SHA-256 PLAIN LOGIN OAUTHBEARER XOAUTH2"},
		{without(func(c *Checks) { c.CanScram = func() bool { return false } }), bound, "EXTERNAL PLAIN LOGIN OAUTHBEARER XOAUTH2"},
		{without(func(c *Checks) { c.Token = nil }), bound, "EXTERNAL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"},
		{without(func(c *Checks) { c.Names, c.Scram = nil, nil }), bound, "PLAIN LOGIN OAUTHBEARER XOAUTH2"},
		{&Checks{}, bound, ""},
	} {
		got := tt.checks.Offer(tt.on)
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%d: offered %q, want %q", i, got, tt.want)
		}
		for _, name := range append(all, "CRAM-MD5", "") {
			if is := tt.checks.New(name, tt.on) != nil; is != slices.Contains(got, name) {
				t.Errorf("%d: %s is there %v", i, name, is)
			}
		}
	}
}

// run is a login of our client, which is xdg-go's for SCRAM. The bytes of each side go through change.
func run(t *testing.T, l saslclient.Login, mechanism string, on Channel, change func(n int, b []byte) []byte) (*Exchange, error) {
	t.Helper()
	m, err := l.Choose([]string{mechanism})
	if err != nil {
		t.Fatal(err)
	}
	e := checks(t).New(mechanism, on)
	response := m.Start()
	for n := 0; ; n += 2 {
		challenge, done, err := e.Next(t.Context(), change(n, response))
		if err != nil {
			return e, err
		}
		if done {
			return e, m.Proved()
		}
		if response, err = m.Next(change(n+1, challenge)); err != nil {
			t.Fatalf("client: %v", err)
		}
	}
}

func same(_ int, b []byte) []byte { return b }

// TestClient: a client that others have written logs in, with the right password alone.
func TestClient(t *testing.T) {
	unbound := Channel{}
	for _, tt := range []struct {
		login     saslclient.Login
		mechanism string
		on        Channel
		want      string // the login
		err       error
	}{
		{saslclient.Login{User: "bob", Password: "se cret"}, Scram, unbound, "bob@own.example", nil},
		{saslclient.Login{User: "bob", Password: "se cret"}, Scram, bound, "bob@own.example", nil},
		{saslclient.Login{User: "a,b=c", Password: "se cret"}, Scram, unbound, "a,b=c@own.example", nil},
		{saslclient.Login{User: "bob", Password: "se cret", Binding: bound.Binding(Exporter)}, ScramPlus, bound, "bob@own.example", nil},
		{saslclient.Login{User: "bob", Password: "se cret", Binding: bound.Binding(Exporter)}, Scram, unbound, "bob@own.example", nil},
		{saslclient.Login{User: "bob", Password: "se cret", Binding: bound.Binding(Exporter)}, Scram, bound, "", ErrProof},          // somebody took -PLUS away
		{saslclient.Login{User: "bob", Password: "se cret", Binding: []byte("of another session")}, ScramPlus, bound, "", ErrProof}, // somebody is in between
		{saslclient.Login{User: "bob", Password: "wrong"}, Scram, unbound, "", ErrProof},
		{saslclient.Login{User: "nobody", Password: "se cret"}, Scram, unbound, "", ErrProof},
		{saslclient.Login{User: "bob", Token: "tok"}, OAuthBearer, unbound, "bob@own.example", nil},
		{saslclient.Login{User: "bob", Token: "wrong"}, OAuthBearer, unbound, "", errWrong},
		{saslclient.Login{User: "bob", Token: "tok"}, XOAuth2, unbound, "bob@own.example", nil},
		{saslclient.Login{User: "bob", Token: "wrong"}, XOAuth2, unbound, "", errWrong},
		{saslclient.Login{User: "bob", Password: "se cret"}, Plain, unbound, "bob@own.example", nil},
		{saslclient.Login{User: "bob", Password: "se cret"}, Login, unbound, "bob@own.example", nil},
		{saslclient.Login{User: "bob"}, External, bound, "bob@own.example", nil},
	} {
		e, err := run(t, tt.login, tt.mechanism, tt.on, same)
		if !errors.Is(err, tt.err) || e.Login != tt.want || e.User != tt.login.User {
			t.Errorf("%s %+v: got login %q of %q, %v; want %q, %v", tt.mechanism, tt.login, e.Login, e.User, err, tt.want, tt.err)
		}
	}
}

// TestScramAltered: no octet of what the client says may be another one.
func TestScramAltered(t *testing.T) {
	l := saslclient.Login{User: "bob", Password: "se cret"}
	var said [][]byte
	if _, err := run(t, l, Scram, Channel{}, func(n int, b []byte) []byte { said = append(said, b); return b }); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 2} {
		for i := range said[n] {
			login, err := func() (string, error) {
				e := checks(t).New(Scram, Channel{})
				client, _ := l.Choose([]string{Scram})
				first := client.Start()
				if n == 0 {
					first = flip(first, i)
				}
				challenge, _, err := e.Next(t.Context(), first)
				if err != nil {
					return e.Login, err
				}
				final, err := client.Next(challenge)
				if err != nil {
					return e.Login, err // a nonce that is not its own
				}
				if n == 2 {
					final = flip(final, i)
				}
				if _, _, err = e.Next(t.Context(), final); err != nil {
					return e.Login, err
				}
				_, _, err = e.Next(t.Context(), []byte{})
				return e.Login, err
			}()
			if err == nil || login != "" {
				t.Errorf("octet %d of message %d altered: login %q, %v", i, n, login, err)
			}
		}
	}
}

func flip(b []byte, i int) []byte {
	b = slices.Clone(b)
	if i < len(b) {
		b[i] ^= 1
	}
	return b
}

// TestScramVector is the example of RFC 7677 3.
func TestScramVector(t *testing.T) {
	s, err := password.Parse("{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=")
	if err != nil {
		t.Fatal(err)
	}
	keys, ok := password.ScramOf(s, nil)
	if !ok {
		t.Fatal("no keys")
	}
	e := &Exchange{checks: &Checks{Scram: func(context.Context, string) (string, password.Scram, error) { return "user", keys, nil }}}
	e.step = (&scram{Exchange: e, ours: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"}).first
	for _, step := range []struct{ response, challenge string }{
		{"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"},
		{"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
			"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="},
	} {
		challenge, done, err := e.Next(t.Context(), []byte(step.response))
		if string(challenge) != step.challenge || done || err != nil {
			t.Fatalf("%q: got %q, %v, %v; want %q", step.response, challenge, done, err, step.challenge)
		}
	}
	if _, done, err := e.Next(t.Context(), []byte{}); !done || err != nil || e.Login != "user" {
		t.Errorf("end: %v, %v, login %q", done, err, e.Login)
	}
}

func TestDecode(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		err      error
	}{
		{"AGJvYgBz", "\x00bob\x00s", nil},
		{"=", "", nil},
		{"", "", nil},
		{"*", "", ErrCancelled},
		{"AGJvYgB", "", ErrMalformed},
		{"AGJv\nYgBz", "", ErrMalformed},
		{"AGJv YgBz", "", ErrMalformed},
		{"YR==", "", ErrMalformed}, // trailing bits are not zero
		{"YQ", "", ErrMalformed},
		{"YQ==", "a", nil},
		{"YQ==YQ==", "", ErrMalformed},
	} {
		got, err := Decode(tt.in)
		if !errors.Is(err, tt.err) || string(got) != tt.want || err == nil && got == nil {
			t.Errorf("%q: got %q, %v; want %q, %v", tt.in, got, err, tt.want, tt.err)
		}
	}
}

// FuzzExchange: whatever a client says, no user is asked about whose name is not one, nobody is let in whom the checks did not, and it ends.
func FuzzExchange(f *testing.F) {
	f.Add(Plain, "AGJvYgBzZSBjcmV0", "", "")
	f.Add(Login, "Ym9i", "c2UgY3JldA==", "")
	f.Add(Login, "=", "*", "")
	f.Add(Scram, Encode([]byte("n,a=bob,n=bob,r=abc")), Encode([]byte("c=biws,r=abc,p=AAAA")), "=")
	f.Add(ScramPlus, Encode([]byte("p=tls-exporter,,n=bo=2Cb,r=abc,x=y")), Encode([]byte("c=biws,r=abc,x=y,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")), "=")
	f.Add(OAuthBearer, Encode([]byte("n,a=bob,\x01host=x\x01auth=Bearer tok\x01\x01")), Encode([]byte("\x01")), "")
	f.Add(XOAuth2, Encode([]byte("user=bob\x01auth=Bearer no\x01\x01")), "=", "")
	f.Add(External, "=", "Ym9i", "")
	f.Fuzz(func(t *testing.T, mechanism, first, second, third string) {
		c := checks(t)
		on := bound
		on.Try = func(user string) error {
			if user != "" && !validName(user) || strings.ContainsAny(user, "\x00\r\n\x7f") {
				t.Errorf("user %q", user)
			}
			return nil
		}
		e := c.New(mechanism, on)
		if e == nil {
			return
		}
		for _, line := range []string{first, second, third} {
			response, err := Decode(line)
			if err != nil {
				return
			}
			_, done, err := e.Next(t.Context(), response)
			if done != (e.Login != "") || done && err != nil {
				t.Fatalf("done %v, login %q, %v", done, e.Login, err)
			}
			if done || err != nil {
				return
			}
		}
	})
}
