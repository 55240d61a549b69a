package sasl

import (
	"context"
	"errors"
	"strings"

	"github.com/postel-mail/postel/internal/status"
)

// What a client hears of a token that is refused, before the refusal itself: of RFC 7628 3.2.2, and as Google and Microsoft write it.
const (
	bearerRefused  = `{"status":"invalid_token"}`
	xoauth2Refused = `{"status":"400","schemes":"Bearer"}`
)

// oauthBearer has one response (RFC 7628 3.1), "n,a=USER,^Aauth=Bearer TOKEN^A^A" with other key=value pairs among them; host and port, which are the
// client's idea of where it is, are passed over.
func (e *Exchange) oauthBearer(ctx context.Context, response []byte) ([]byte, bool, error) {
	header, rest, ok := strings.Cut(string(response), "\x01")
	flag, identity, ok2 := strings.Cut(header, ",")
	identity, ok3 := strings.CutSuffix(identity, ",")
	if !ok || !ok2 || !ok3 || flag != "n" && flag != "y" {
		return nil, false, ErrMalformed
	}
	user := ""
	if identity != "" {
		if user, ok = saslName(identity, "a="); !ok {
			return nil, false, ErrMalformed
		}
	}
	return e.bearer(ctx, user, rest, bearerRefused)
}

// xoauth2 has one response, "user=USER^Aauth=Bearer TOKEN^A^A".
func (e *Exchange) xoauth2(ctx context.Context, response []byte) ([]byte, bool, error) {
	user, rest, ok := strings.Cut(string(response), "\x01")
	user, ok2 := strings.CutPrefix(user, "user=")
	if !ok || !ok2 || !validName(user) {
		return nil, false, ErrMalformed
	}
	return e.bearer(ctx, user, rest, xoauth2Refused)
}

// bearer judges the token among the pairs. The client hears of a refusal in a challenge first, and has to answer it (RFC 7628 3.2.3).
func (e *Exchange) bearer(ctx context.Context, user, pairs, refusal string) (challenge []byte, done bool, err error) {
	token, ok := parsePairs(pairs)
	if !ok {
		return nil, false, ErrMalformed
	}
	if err := e.try(user); err != nil {
		return nil, false, err
	}
	if token == "" { // a client that wants to know how it could get one (RFC 7628 4.3)
		err = refused("sasl: no token")
	} else if e.Login, err = e.checks.Token(ctx, user, token); err == nil {
		return nil, true, nil
	}
	var s *status.Error
	if !errors.As(err, &s) || s.Code != 535 {
		return nil, false, err
	}
	e.Refused = err
	e.step = func(context.Context, []byte) ([]byte, bool, error) { return nil, false, e.Refused }
	return []byte(refusal), false, nil
}

// parsePairs reads "key=value^A" as often as there are, and a last ^A; the token is that of the one key auth.
func parsePairs(s string) (token string, ok bool) {
	seen := false
	for {
		pair, rest, more := strings.Cut(s, "\x01")
		if !more {
			return "", false
		}
		if pair == "" {
			return token, rest == "" && seen
		}
		key, value, isPair := strings.Cut(pair, "=")
		if !isPair || key == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			return "", false
		}
		if key == "auth" {
			if seen {
				return "", false
			}
			seen = true
			if token, ok = bearerToken(value); !ok {
				return "", false
			}
		}
		s = rest
	}
}

// bearerToken reads "Bearer TOKEN" (RFC 6750 2.1); an empty value is no token.
func bearerToken(value string) (token string, ok bool) {
	if value == "" {
		return "", true
	}
	scheme, token, ok := strings.Cut(value, " ")
	token = strings.TrimLeft(token, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxToken {
		return "", false
	}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/"
	return token, strings.Trim(strings.TrimRight(token, "="), letters) == "" && token[0] != '='
}
