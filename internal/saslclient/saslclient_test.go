package saslclient

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	xdg "github.com/xdg-go/scram"
)

// talk plays an exchange against a server and gives what the client said.
func talk(t *testing.T, m Mechanism, next func(response []byte) (challenge []byte, done bool, err error)) (said []string, err error) {
	t.Helper()
	response := m.Start()
	for range 10 {
		if response != nil {
			said = append(said, string(response))
		}
		challenge, done, err := next(response)
		if err != nil {
			return said, err
		}
		if done {
			return said, m.Proved()
		}
		if response, err = m.Next(challenge); err != nil {
			return said, err
		}
		if response == nil {
			t.Fatal("no answer to a challenge")
		}
	}
	t.Fatal("no end")
	return nil, nil
}

func TestChoose(t *testing.T) {
	all := []string{"CRAM-MD5", LoginName, Plain, Scram, ScramPlus, XOAuth2, OAuthBearer, External}
	without := func(names ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(names, s) })
	}
	password := Login{User: "u", Password: "p"}
	bound := Login{User: "u", Password: "p", Binding: []byte("x")}
	token := Login{User: "u", Token: "t"}
	for _, tt := range []struct {
		l       Login
		offered []string
		want    string
	}{
		{bound, all, ScramPlus},
		{password, all, Scram},
		{bound, without(ScramPlus), Scram},
		{bound, without(Scram), ScramPlus},
		{password, without(Scram), Plain},
		{password, without(Scram, ScramPlus, Plain), LoginName},
		{password, []string{XOAuth2, External, "CRAM-MD5"}, ""},
		{token, all, OAuthBearer},
		{token, without(OAuthBearer), XOAuth2},
		{token, without(OAuthBearer, XOAuth2), ""},
		{Login{User: "u"}, all, External},
		{Login{User: "u"}, without(External), ""},
		{password, nil, ""},
	} {
		m, err := tt.l.Choose(tt.offered)
		switch {
		case tt.want == "" && !errors.Is(err, ErrNone):
			t.Errorf("%+v %q: got %v, want %v", tt.l, tt.offered, err, ErrNone)
		case tt.want != "" && (err != nil || m.Name() != tt.want):
			t.Errorf("%+v %q: got %v, %v, want %s", tt.l, tt.offered, m, err, tt.want)
		}
	}
	for _, l := range []Login{{User: "", Password: "p"}, {User: "a\x01b", Token: "t"}, {User: "u", Password: "a\x00"}, {User: "u", Token: "a b"},
		{User: "u", Token: "a\x01"}, {User: "u", Token: "\xff"}, {User: "u\x07", Password: "p"}, {User: "\u0221", Password: "p"}} {
		if m, err := l.Choose(all); err == nil || errors.Is(err, ErrNone) {
			t.Errorf("%+q: got %v, %v", l, m, err)
		}
	}
}

// TestAgainstGoSASL lets the servers of a library read what the mechanisms say.
func TestAgainstGoSASL(t *testing.T) {
	var got string
	servers := map[string]sasl.Server{
		Plain: sasl.NewPlainServer(func(identity, user, password string) error {
			got = identity + "|" + user + "|" + password
			return nil
		}),
		OAuthBearer: sasl.NewOAuthBearerServer(func(o sasl.OAuthBearerOptions) *sasl.OAuthBearerError {
			got = o.Username + "|" + o.Token
			if o.Token == "stale" {
				return &sasl.OAuthBearerError{Status: "invalid_token"}
			}
			return nil
		}),
		External: sasl.NewExternalServer(func(identity string) error { got = identity; return nil }),
	}
	for _, tt := range []struct {
		l          Login
		name, want string
	}{
		{Login{User: "ü@x", Password: "p =,"}, Plain, "|ü@x|p =,"},
		{Login{User: "a@b", Token: "tok.en=="}, OAuthBearer, "a@b|tok.en=="},
		{Login{User: "u@x"}, External, "u@x"},
	} {
		m, err := tt.l.Choose([]string{tt.name})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := talk(t, m, servers[tt.name].Next); err != nil || got != tt.want {
			t.Errorf("%+v: got %q, %v; want %q", tt.l, got, err, tt.want)
		}
	}
	m, err := Login{User: "u", Token: "stale"}.Choose([]string{OAuthBearer})
	if err != nil {
		t.Fatal(err)
	}
	server := sasl.NewOAuthBearerServer(func(sasl.OAuthBearerOptions) *sasl.OAuthBearerError {
		return &sasl.OAuthBearerError{Status: "invalid_token"}
	})
	said, err := talk(t, m, server.Next)
	if err == nil || len(said) != 2 || said[1] != "\x01" {
		t.Errorf("a refused token: client said %q, %v", said, err)
	}
	if m.Proved() == nil {
		t.Error("a server may take a token that it has refused")
	}
}

func TestWords(t *testing.T) {
	for _, tt := range []struct {
		l          Login
		name       string
		challenges []string
		want       []string
		fails      bool
	}{
		{Login{User: "u", Password: "p"}, LoginName, []string{"Username:", "Password:"}, []string{"u", "p"}, false},
		{Login{User: "u", Password: "p"}, LoginName, []string{"", ""}, []string{"u", "p"}, false},
		{Login{User: "u", Password: "p"}, LoginName, []string{"", "", ""}, []string{"u", "p"}, true},
		{Login{User: "u", Password: "p"}, Plain, []string{""}, []string{"\x00u\x00p"}, true},
		{Login{User: "u@x", Token: "t"}, XOAuth2, nil, []string{"user=u@x\x01auth=Bearer t\x01\x01"}, false},
		{Login{User: "u@x", Token: "t"}, XOAuth2, []string{`{"status":"401"}`}, []string{"user=u@x\x01auth=Bearer t\x01\x01", ""}, true}, // taken after all
		{Login{User: "u@x", Token: "t"}, XOAuth2, []string{"{}", "{}"}, []string{"user=u@x\x01auth=Bearer t\x01\x01", ""}, true},
		{Login{User: "a=b,c", Token: "t"}, OAuthBearer, nil, []string{"n,a=a=3Db=2Cc,\x01auth=Bearer t\x01\x01"}, false},
		{Login{User: "u"}, External, []string{"more"}, []string{"u"}, true},
	} {
		m, err := tt.l.Choose([]string{tt.name})
		if err != nil {
			t.Fatal(err)
		}
		challenges := tt.challenges
		said, err := talk(t, m, func([]byte) ([]byte, bool, error) {
			if len(challenges) == 0 {
				return nil, true, nil
			}
			c := challenges[0]
			challenges = challenges[1:]
			return []byte(c), false, nil
		})
		if !slices.Equal(said, tt.want) || (err != nil) != tt.fails {
			t.Errorf("%s %q: got %q, %v; want %q, failure %v", tt.name, tt.challenges, said, err, tt.want, tt.fails)
		}
	}
}

// scramServer is xdg's server for one user with a number of iterations.
func scramServer(t *testing.T, iterations int) *xdg.Server {
	t.Helper()
	c, err := xdg.SHA256.NewClient("u,=", "secret", "")
	if err != nil {
		t.Fatal(err)
	}
	stored, err := c.GetStoredCredentialsWithError(xdg.KeyFactors{Salt: "salt", Iters: iterations})
	if err != nil {
		t.Fatal(err)
	}
	s, err := xdg.SHA256.NewServer(func(user string) (xdg.StoredCredentials, error) {
		if user != "u,=" {
			return xdg.StoredCredentials{}, errors.New("no such user")
		}
		return stored, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestScram(t *testing.T) {
	binding := []byte("0123456789abcdef0123456789abcdef")
	channel := xdg.ChannelBinding{Type: xdg.ChannelBindingTLSExporter, Data: binding}
	other := xdg.ChannelBinding{Type: xdg.ChannelBindingTLSExporter, Data: []byte("between")}
	none := func(s *xdg.Server) *xdg.ServerConversation { return s.NewConversation() }
	bound := func(c xdg.ChannelBinding) func(*xdg.Server) *xdg.ServerConversation {
		return func(s *xdg.Server) *xdg.ServerConversation { return s.NewConversationWithChannelBindingRequired(c) }
	}
	for _, tt := range []struct {
		name       string
		iterations int
		l          Login
		offered    []string
		server     func(*xdg.Server) *xdg.ServerConversation
		want       string // of the error
		begins     string
	}{
		{"plain", 4096, Login{User: "u,=", Password: "secret"}, []string{Scram}, none, "", "n,,n=u=2C=3D,r="},
		{"plus", 4096, Login{User: "u,=", Password: "secret", Binding: binding}, []string{Scram, ScramPlus}, bound(channel), "", "p=tls-exporter,,n="},
		{"between", 4096, Login{User: "u,=", Password: "secret", Binding: binding}, []string{Scram, ScramPlus}, bound(other), "channel-bindings-dont-match", "p="},
		{"not offered", 4096, Login{User: "u,=", Password: "secret", Binding: binding}, []string{Scram}, none, "", "y,,n="},
		{"taken out of the list", 4096, Login{User: "u,=", Password: "secret", Binding: binding}, []string{Scram},
			func(s *xdg.Server) *xdg.ServerConversation { return s.NewConversationWithChannelBinding(channel) }, "server-does-support-channel-binding", "y"},
		{"wrong password", 4096, Login{User: "u,=", Password: "wrong"}, []string{Scram}, none, "invalid-proof", "n"},
		{"few iterations", 4095, Login{User: "u,=", Password: "secret"}, []string{Scram}, none, "too few iterations", "n"},
		{"most iterations", 1_000_000, Login{User: "u,=", Password: "secret"}, []string{Scram}, none, "", "n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := tt.l.Choose(tt.offered)
			if err != nil {
				t.Fatal(err)
			}
			server := tt.server(scramServer(t, tt.iterations))
			said, err := talk(t, m, func(response []byte) ([]byte, bool, error) {
				if server.Done() {
					return nil, true, nil
				}
				s, err := server.Step(string(response))
				if err != nil {
					return nil, false, fmt.Errorf("%w: %s", err, s)
				}
				return []byte(s), false, nil
			})
			got := ""
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, tt.want) || tt.want == "" && got != "" || !strings.HasPrefix(said[0], tt.begins) {
				t.Errorf("got %q, client said %q; want %q, begun with %q", got, said, tt.want, tt.begins)
			}
		})
	}
}

// TestHostileScram: a server that has not proved itself is not believed, and cannot make work without end.
func TestHostileScram(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first string // NONCE is replaced
		final string // "" for none: the server says yes at once
		want  string
	}{
		{"1,000,001 iterations", "r=NONCEx,s=c2FsdA==,i=1000001", "", "no number of iterations"},
		{"very many iterations", "r=NONCEx,s=c2FsdA==,i=99999999999999999999", "", "no number of iterations"},
		{"no iterations", "r=NONCEx,s=c2FsdA==,j=1", "", "no number of iterations"},
		{"negative iterations", "r=NONCEx,s=c2FsdA==,i=-1", "", "too few iterations"},
		{"another nonce", "r=x,s=c2FsdA==,i=4096", "", "nonce"},
		{"an extension", "m=x,r=NONCEx,s=c2FsdA==,i=4096", "", "no number"},
		{"malformed salt", "r=NONCEx,s=?,i=4096", "", "failed decoding"},
		{"nothing", "", "", "not enough fields"},
		{"wrong proof", "r=NONCEx,s=c2FsdA==,i=4096", "v=AAAA", "validation failed"},
		{"empty proof", "r=NONCEx,s=c2FsdA==,i=4096", "v=", "validation failed"},
		{"error", "r=NONCEx,s=c2FsdA==,i=4096", "e=other-error", "other-error"},
	} {
		m, err := Login{User: "u", Password: "p"}.Choose([]string{Scram})
		if err != nil {
			t.Fatal(err)
		}
		_, nonce, _ := bytes.Cut(m.Start(), []byte("r="))
		_, err = m.Next([]byte(strings.ReplaceAll(tt.first, "NONCE", string(nonce))))
		if err == nil && tt.final != "" {
			_, err = m.Next([]byte(tt.final))
		}
		if err == nil {
			err = m.Proved()
		} else if m.Proved() == nil {
			t.Errorf("%s: proved, though %v", tt.name, err)
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		for range 3 { // and asking on gives nothing
			if _, err := m.Next([]byte("v=")); err == nil || m.Proved() == nil {
				t.Errorf("%s: an answer behind the end, proved is %v", tt.name, m.Proved())
			}
		}
	}
}

func TestScramYesAtOnce(t *testing.T) {
	m, err := Login{User: "u", Password: "p"}.Choose([]string{Scram})
	if err != nil {
		t.Fatal(err)
	}
	_, nonce, _ := bytes.Cut(m.Start(), []byte("r="))
	if _, err := m.Next([]byte("r=" + string(nonce) + "x,s=c2FsdA==,i=4096")); err != nil {
		t.Fatal(err)
	}
	if err := m.Proved(); err == nil || !strings.Contains(err.Error(), "did not prove") {
		t.Errorf("got %v", err)
	}
}

// FuzzScram: no challenge makes the server proved, for none here knows the password.
func FuzzScram(f *testing.F) {
	f.Add("r=NONCEx,s=c2FsdA==,i=4096", "v=AAAA")
	f.Add("r=NONCE,s=,i=5000", "e=x,v=")
	f.Add("", "v=")
	f.Fuzz(func(t *testing.T, first, final string) {
		if strings.Contains(first, "i=") && len(first)-strings.Index(first, "i=") > 7 {
			return // slow
		}
		m, err := Login{User: "u", Password: "p"}.Choose([]string{Scram})
		if err != nil {
			t.Fatal(err)
		}
		_, nonce, _ := bytes.Cut(m.Start(), []byte("r="))
		for _, challenge := range []string{first, final, final} {
			response, err := m.Next([]byte(strings.ReplaceAll(challenge, "NONCE", string(nonce))))
			if err == nil && bytes.Contains(response, []byte("\n")) {
				t.Fatalf("%q", response)
			}
		}
		if m.Proved() == nil {
			t.Fatalf("%q %q is proof", first, final)
		}
	})
}
