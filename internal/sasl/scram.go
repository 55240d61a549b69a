package sasl

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/postel-mail/postel/internal/password"
)

// scram is SCRAM-SHA-256 (RFC 5802, 7677), own because xdg-go's server knows one kind of channel binding and takes one without -PLUS.
//
//	client: p=tls-exporter,,n=user,r=NONCE        server: r=NONCE+OURS,s=SALT,i=ROUNDS
//	client: c=BINDING,r=NONCE+OURS,p=PROOF        server: v=SIGNATURE, which the client answers by nothing
type scram struct {
	*Exchange
	plus bool
	ours string // the server's part of the nonce

	login   string
	keys    password.Scram
	binding []byte // what "c=" has to be: the header, and the channel binding
	nonce   string
	said    string // by both so far, for the signatures: AuthMessage without the client's last
}

// maxNonce bounds a client's nonce in octets.
const maxNonce = 512

func newScram(e *Exchange, plus bool) *scram {
	return &scram{Exchange: e, plus: plus, ours: rand.Text()}
}

func (s *scram) first(ctx context.Context, response []byte) ([]byte, bool, error) {
	m, ok := parseFirst(string(response))
	if !ok {
		return nil, false, ErrMalformed
	}
	s.User = m.user
	s.binding = []byte(m.header)
	switch kind, wants := strings.CutPrefix(m.flag, "p="); {
	case wants != s.plus: // RFC 5802 5.1: who can bind and has chosen to takes -PLUS, and only that
		return nil, false, ErrMalformed
	case wants && s.on.Binding(kind) == nil:
		return nil, false, ErrMalformed // unsupported-channel-binding-type
	case wants:
		s.binding = append(s.binding, s.on.Binding(kind)...)
	case m.flag == "y" && s.on.bound():
		return nil, false, ErrProof // RFC 5802 6: somebody has taken -PLUS out of what we offered
	}
	if m.identity != "" && m.identity != m.user {
		return nil, false, ErrIdentity
	}
	err := s.try(m.user)
	if err == nil {
		s.login, s.keys, err = s.checks.Scram(ctx, m.user)
	}
	if err != nil {
		return nil, false, err
	}
	s.nonce = m.nonce + s.ours
	challenge := "r=" + s.nonce + ",s=" + base64.StdEncoding.EncodeToString(s.keys.Salt) + ",i=" + strconv.Itoa(s.keys.Rounds)
	s.said = m.bare + "," + challenge
	s.step = s.final
	return []byte(challenge), false, nil
}

func (s *scram) final(_ context.Context, response []byte) ([]byte, bool, error) {
	m, ok := parseFinal(string(response))
	switch {
	case !ok || m.nonce != s.nonce:
		return nil, false, ErrMalformed
	case !bytes.Equal(m.binding, s.binding):
		return nil, false, ErrProof // channel-bindings-dont-match
	}
	message := s.said + "," + m.bare
	key := sign(s.keys.StoredKey, message)
	for i := range key { // now ClientSignature, then ClientKey
		key[i] ^= m.proof[i]
	}
	stored := sha256.Sum256(key)
	if !hmac.Equal(stored[:], s.keys.StoredKey) {
		return nil, false, ErrProof
	}
	s.step = s.last
	return []byte("v=" + base64.StdEncoding.EncodeToString(sign(s.keys.ServerKey, message))), false, nil
}

// last is behind the server's proof, which the protocols carry in a challenge.
func (s *scram) last(_ context.Context, response []byte) ([]byte, bool, error) {
	if len(response) > 0 {
		return nil, false, ErrMalformed
	}
	s.Login = s.login
	return nil, true, nil
}

func sign(key []byte, message string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(message))
	return mac.Sum(nil)
}

// firstMessage is the client's first, taken apart.
type firstMessage struct {
	flag, identity string // of the header
	header         string // with its commas
	user, nonce    string
	bare           string // without the header
}

// parseFirst reads client-first-message of RFC 5802 7. Extensions that must be understood (m=) are none; others are passed over.
func parseFirst(s string) (m firstMessage, ok bool) {
	f := strings.SplitN(s, ",", 3)
	if len(f) < 3 {
		return m, false
	}
	m.flag, m.header, m.bare = f[0], f[0]+","+f[1]+",", f[2]
	if m.flag != "n" && m.flag != "y" && !strings.HasPrefix(m.flag, "p=") {
		return m, false
	}
	if f[1] != "" {
		if m.identity, ok = saslName(f[1], "a="); !ok {
			return m, false
		}
	}
	f = strings.Split(m.bare, ",")
	if len(f) < 2 {
		return m, false
	}
	if m.user, ok = saslName(f[0], "n="); !ok {
		return m, false
	}
	m.nonce, ok = strings.CutPrefix(f[1], "r=")
	return m, ok && isNonce(m.nonce) && len(m.nonce) <= maxNonce && extensions(f[2:])
}

// finalMessage is the client's last, taken apart.
type finalMessage struct {
	binding, proof []byte
	nonce          string
	bare           string // without the proof
}

func parseFinal(s string) (m finalMessage, ok bool) {
	i := strings.LastIndexByte(s, ',')
	if i < 0 {
		return m, false
	}
	m.bare = s[:i]
	f := strings.Split(m.bare, ",")
	if len(f) < 2 {
		return m, false
	}
	var ok1, ok2, ok3 bool
	m.binding, ok1 = attribute(f[0], "c=")
	m.nonce, ok2 = strings.CutPrefix(f[1], "r=")
	m.proof, ok3 = attribute(s[i+1:], "p=")
	return m, ok1 && ok2 && ok3 && len(m.proof) == sha256.Size && extensions(f[2:])
}

// attribute reads one whose value is base64.
func attribute(s, name string) ([]byte, bool) {
	text, ok := strings.CutPrefix(s, name)
	if !ok || strings.ContainsAny(text, "\r\n") { // which encoding/base64 skips
		return nil, false
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	return b, err == nil
}

// extensions reports whether all are attributes with a value that is not empty (attr-val).
func extensions(all []string) bool {
	for _, s := range all {
		if len(s) < 3 || s[1] != '=' || s[0]|0x20 < 'a' || s[0]|0x20 > 'z' || s[0] == 'm' || strings.IndexByte(s, 0) >= 0 {
			return false
		}
	}
	return true
}

// saslName reads a name, in which "=2C" is a comma and "=3D" an equals sign, and no other equals sign may stand.
func saslName(s, name string) (string, bool) {
	s, ok := strings.CutPrefix(s, name)
	plain := strings.NewReplacer("=2C", "", "=3D", "").Replace(s)
	return strings.NewReplacer("=2C", ",", "=3D", "=").Replace(s), ok && validName(s) && !strings.ContainsAny(plain, "=,")
}

// isNonce reports whether s is printable ASCII without a comma.
func isNonce(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ',' }) < 0
}
