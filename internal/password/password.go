// Package password checks passwords against what a table of users keeps of them: hashes of crypt(5), Argon2id, PBKDF2 and SCRAM-SHA-256 in
// Dovecot's notation, {SCHEME}hash, and plain text.
//
// MD5, DES and salted SHA-1 are not taken, nor are hashes so costly that one login would hold the machine.
package password

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/go-crypt/crypt"
	"github.com/go-crypt/crypt/algorithm"
	"github.com/go-crypt/crypt/algorithm/argon2"
	"github.com/go-crypt/crypt/algorithm/bcrypt"
	pbkdf2crypt "github.com/go-crypt/crypt/algorithm/pbkdf2"
	"github.com/go-crypt/crypt/algorithm/scrypt"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"github.com/xdg-go/stringprep"
)

// Secret is what a table keeps of a password.
type Secret interface {
	// Match reports whether password is the right one, in a time that does not depend on how wrong it is.
	Match(password string) bool
	// Cost is equal for two secrets that take the same time to check.
	Cost() string
}

// The dearest hashes that are taken. One more costly than these would let a login hold the machine.
const (
	maxArgonMemory = 1 << 20 // KiB
	maxArgonTime   = 100
	maxArgonLanes  = 64
	maxBcryptCost  = 17
	maxRounds      = 10_000_000
	maxYescryptN   = 18 // log2
)

// schemes are the names that stand in braces before a hash, and the beginnings that such a hash may have.
var schemes = map[string][]string{
	"ARGON2ID":      {"$argon2id$"},
	"BLF-CRYPT":     {"$2a$", "$2b$", "$2y$"},
	"SHA512-CRYPT":  {"$6$"},
	"SHA256-CRYPT":  {"$5$"},
	"PBKDF2":        {"$1$", "$pbkdf2$", "$pbkdf2-sha1$", "$pbkdf2-sha256$", "$pbkdf2-sha512$"},
	"CRYPT":         {"$2a$", "$2b$", "$2y$", "$5$", "$6$", "$y$"},
	"SCRAM-SHA-256": {""},
	"PLAIN":         {""},
}

// Parse reads the password field of a passwd file: {SCHEME}hash, or a hash of crypt(5) alone. A field that is empty or begins
// with "!" or "*" holds no password, so that nobody can log in: nil. Errors never show the hash.
func Parse(field string) (Secret, error) {
	if field == "" || field[0] == '!' || field[0] == '*' {
		return nil, nil
	}
	scheme, hash := "CRYPT", field
	if rest, ok := strings.CutPrefix(field, "{"); ok {
		if scheme, hash, ok = strings.Cut(rest, "}"); !ok {
			return nil, errors.New("password scheme without }")
		}
		scheme = strings.ToUpper(scheme)
	}
	begins, ok := schemes[scheme]
	if !ok {
		return nil, fmt.Errorf("password scheme %q is none of ARGON2ID, BLF-CRYPT, SHA512-CRYPT, SHA256-CRYPT, PBKDF2, SCRAM-SHA-256, PLAIN, CRYPT", scheme)
	}
	fits := false
	for _, b := range begins {
		fits = fits || strings.HasPrefix(hash, b)
	}
	switch {
	case !fits:
		return nil, fmt.Errorf("password is not a hash of scheme %s", scheme)
	case scheme == "PLAIN":
		return plain(hash), nil
	case scheme == "SCRAM-SHA-256":
		return parseScram(hash)
	case scheme == "PBKDF2" && strings.HasPrefix(hash, "$1$"):
		return parsePBKDF2(hash)
	}
	return parseCrypt(hash)
}

// plain is a password as it is.
type plain string

func (p plain) Match(password string) bool {
	a, b := sha256.Sum256([]byte(p)), sha256.Sum256([]byte(password)) // hides the length too
	return p != "" && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

func (p plain) Cost() string { return "PLAIN" }

// crypted is a hash in the "$id$..." form of crypt(5).
type crypted struct {
	digest   algorithm.Digest
	settings string // the hash without its last two parts
	longest  int    // octets of a password that count; 0 all
}

func (c crypted) Match(password string) bool {
	if c.longest > 0 && len(password) > c.longest {
		password = password[:c.longest]
	}
	ok, err := c.digest.MatchAdvanced(password)
	return ok && err == nil
}

func (c crypted) Cost() string { return c.settings }

// decoder knows the hashes that are taken.
var decoder = sync.OnceValues(func() (*crypt.Decoder, error) {
	d := crypt.NewDecoder()
	err := errors.Join(argon2.RegisterDecoderArgon2id(d), bcrypt.RegisterDecoderStandard(d), pbkdf2crypt.RegisterDecoder(d),
		scrypt.RegisterDecoderYescrypt(d), shacrypt.RegisterDecoder(d))
	return d, err
})

func parseCrypt(hash string) (Secret, error) {
	c := crypted{settings: hash}
	if err := checkCost(hash); err != nil {
		return nil, err
	}
	parts := strings.Split(hash, "$")
	drop := 2 // salt and key
	if strings.HasPrefix(hash, "$2") {
		drop, c.longest = 1, 72 // as every crypt(3) has it
	}
	c.settings = strings.Join(parts[:max(2, len(parts)-drop)], "$")
	d, err := decoder()
	if err != nil {
		return nil, err
	}
	if c.digest, err = d.Decode(hash); err != nil {
		return nil, errors.New("malformed password hash") // the library's error may hold the hash
	}
	return c, nil
}

// checkCost refuses a hash whose settings would let one login hold the machine, or that the library would not survive.
func checkCost(hash string) error {
	parts := strings.Split(hash, "$") // "", id, settings...
	if len(parts) < 4 {
		return errors.New("malformed password hash")
	}
	limits := map[string]uint64{}
	switch id, setting := parts[1], parts[2]; id {
	case "2a", "2b", "2y":
		limits["cost"] = maxBcryptCost
		return checkNumbers("cost="+setting, limits)
	case "5", "6":
		if strings.HasPrefix(setting, "rounds=") {
			limits["rounds"] = maxRounds
			return checkNumbers(setting, limits)
		}
	case "argon2id":
		limits["m"], limits["t"], limits["p"] = maxArgonMemory, maxArgonTime, maxArgonLanes
		return checkNumbers(parts[3], limits)
	case "y":
		// one character each for flavour, log2 N and r, in crypt's base 64, counted from 1
		const digits = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
		if len(setting) != 3 || strings.IndexByte(digits, setting[1]) >= maxYescryptN || strings.IndexByte(digits, setting[2]) >= 32 {
			return errors.New("yescrypt settings are not understood or too costly")
		}
	default: // PBKDF2
		limits["rounds"] = maxRounds
		return checkNumbers("rounds="+setting, limits)
	}
	return nil
}

// checkNumbers holds settings "name=n,name=n" against a limit for each name.
func checkNumbers(settings string, limits map[string]uint64) error {
	for s := range strings.SplitSeq(settings, ",") {
		k, v, _ := strings.Cut(s, "=")
		n, err := strconv.ParseUint(v, 10, 32)
		limit, ok := limits[k]
		switch {
		case err != nil || !ok || n == 0:
			return errors.New("malformed password hash")
		case n > limit:
			return fmt.Errorf("password hash is too costly: %s=%d is more than %d", k, n, limit)
		}
	}
	return nil
}

// derived is a key derived from the password by PBKDF2.
type derived struct {
	key    func(password string) ([]byte, error)
	want   []byte
	scheme string
}

func (d derived) Match(password string) bool {
	got, err := d.key(password)
	return err == nil && subtle.ConstantTimeCompare(got, d.want) == 1
}

func (d derived) Cost() string { return d.scheme }

// parsePBKDF2 reads Dovecot's form, "$1$salt$rounds$hex of a SHA-1 key".
func parsePBKDF2(hash string) (Secret, error) {
	parts := strings.Split(hash, "$")
	if len(parts) != 5 {
		return nil, errors.New("malformed password hash")
	}
	rounds, err := parseRounds(parts[3])
	if err != nil {
		return nil, err
	}
	want, err := hex.DecodeString(parts[4])
	if err != nil || len(want) != sha1.Size {
		return nil, errors.New("malformed password hash")
	}
	key := func(password string) ([]byte, error) {
		return pbkdf2.Key(sha1.New, password, []byte(parts[2]), rounds, sha1.Size)
	}
	return derived{key, want, "PBKDF2 " + parts[3]}, nil
}

// scramRounds are those of keys made from a password that is there as it is (RFC 7677 4), and the least that clients take.
const scramRounds = 4096

// Scram is what SCRAM-SHA-256 keeps of a password (RFC 5802 3).
type Scram struct {
	Rounds                     int
	Salt, StoredKey, ServerKey []byte
}

// ScramOf gives what SCRAM-SHA-256 needs of s: what the table keeps, or for a plain password what is derived from it with the salt. It reports false where s is a
// hash of another kind, which leads to no key, or has fewer rounds than clients take.
func ScramOf(s Secret, salt []byte) (Scram, bool) {
	if !CanScram(s) {
		return Scram{}, false
	}
	switch s := s.(type) {
	case plain:
		word, err := stringprep.SASLprep.Prepare(string(s)) // RFC 5802 2.2: as the client does
		if err != nil {
			word = string(s)
		}
		keys, err := deriveScram(word, salt, scramRounds)
		return keys, err == nil
	case scram:
		return s.Scram, true
	}
	return Scram{}, false
}

// CanScram reports whether ScramOf has keys for s.
func CanScram(s Secret) bool {
	if k, ok := s.(scram); ok {
		return k.Rounds >= scramRounds
	}
	p, ok := s.(plain)
	return ok && p != ""
}

func deriveScram(password string, salt []byte, rounds int) (Scram, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, rounds, sha256.Size)
	if err != nil {
		return Scram{}, err
	}
	client := sha256.Sum256(sign(salted, "Client Key"))
	return Scram{rounds, salt, client[:], sign(salted, "Server Key")}, nil
}

func sign(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// scram is a Scram that a table keeps. A password is checked by deriving StoredKey from it.
type scram struct{ Scram }

func (s scram) Match(password string) bool {
	got, err := deriveScram(password, s.Salt, s.Rounds)
	return err == nil && subtle.ConstantTimeCompare(got.StoredKey, s.StoredKey) == 1
}

func (s scram) Cost() string { return "SCRAM-SHA-256 " + strconv.Itoa(s.Rounds) }

// parseScram reads Dovecot's form, "rounds,salt,StoredKey,ServerKey".
func parseScram(hash string) (Secret, error) {
	parts := strings.Split(hash, ",")
	if len(parts) != 4 {
		return nil, errors.New("malformed password hash")
	}
	rounds, err := parseRounds(parts[0])
	if err != nil {
		return nil, err
	}
	var b [3][]byte
	for i := range b {
		if b[i], err = base64.StdEncoding.DecodeString(parts[i+1]); err != nil {
			return nil, errors.New("malformed password hash")
		}
	}
	if len(b[1]) != sha256.Size || len(b[2]) != sha256.Size {
		return nil, errors.New("malformed password hash")
	}
	return scram{Scram{rounds, b[0], b[1], b[2]}}, nil
}

func parseRounds(s string) (int, error) {
	err := checkNumbers("rounds="+s, map[string]uint64{"rounds": maxRounds})
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(s)
}

// Decoy picks the secret that is checked where there is none: one whose cost is the commonest among all, so that an unknown user
// takes as long as most known ones.
func Decoy(all []Secret) Secret {
	count := map[string]int{}
	var best Secret
	for _, s := range all {
		c := s.Cost()
		if count[c]++; best == nil || count[c] > count[best.Cost()] {
			best = s
		}
	}
	return best
}
