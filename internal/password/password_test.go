package password

import (
	"strings"
	"testing"
)

// Hashes of "secret" that other programs made: libxcrypt's crypt(3), Python's hashlib, the reference implementation of Argon2
// (there it is "password").
var known = []struct{ name, field, password string }{
	{"SHA512-CRYPT", "{SHA512-CRYPT}$6$saltstring$AIsRs/Ee56G/tC8MEHhvReZTfx8u3rXXMl6eYrjCG9ibix19DxoMBLogdTET5Ukw9Sf7eZTITsuk0Ry5qulYz.", "secret"},
	{"rounds", "{SHA512-CRYPT}$6$rounds=2000$saltstring$aq.2Pyb4Fb7WNJzp0WC3kqHAsRO4.E2hN3GRZmgb3z2BE/HRCYIVvnk4mnGeH0oh0ffp8uZ0DYUD5IJCrDY0Q/", "secret"},
	{"SHA256-CRYPT", "{sha256-crypt}$5$saltsalt$0IyaXrmV7.sGNS6tirgqHLqX/G.FBvgkYA.lpPdS5sA", "secret"},
	{"BLF-CRYPT", "{BLF-CRYPT}$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", "secret"},
	{"72 octets", "{BLF-CRYPT}$2y$04$abcdefghijklmnopqrstuubzadhGtS2zEF.gu0yd0opP6cVzb.e0i", strings.Repeat("x", 80)},
	{"no scheme", "$5$saltsalt$0IyaXrmV7.sGNS6tirgqHLqX/G.FBvgkYA.lpPdS5sA", "secret"},
	{"yescrypt", "$y$j75$abcdefghijklmnopqrstu.$cQjAYfMwB51ACkjNBqV7OEAUemp/TRZgJmoQ3b5QsN8", "secret"},
	{"CRYPT", "{CRYPT}$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", "secret"},
	{"PBKDF2 Dovecot", "{PBKDF2}$1$saltsaltsaltsalt$5000$8e455ae73af786d64f3a0b291ef71a407519dbe8", "secret"},
	{"PBKDF2 passlib", "{PBKDF2}$pbkdf2-sha256$6400$c2FsdHNhbHRzYWx0c2FsdA$7Pbnc1lqcRZDk4fAFehYSFVeCTgFW8esaFbx7N9WVUA", "secret"},
	{"SCRAM-SHA-256", "{SCRAM-SHA-256}4096,c2FsdHNhbHRzYWx0,UdmKRUjfgm0U6mfMFFn/tGaEoriNY2YlrUES5w+4kaA=,ZH6upP+u0RFc4kNZYflxg+txwr3oIlzDM/JXePM5XCY=", "secret"},
	{"ARGON2ID", "{ARGON2ID}$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", "password"},
	{"PLAIN", "{PLAIN}{secret", "{secret"},
}

func TestSchemes(t *testing.T) {
	for _, k := range known {
		s, err := Parse(k.field)
		if err != nil {
			t.Errorf("%s: Parse(%q): %v", k.name, k.field, err)
			continue
		}
		if !s.Match(k.password) {
			t.Errorf("%s: the right password does not match", k.name)
		}
		for _, wrong := range []string{"", "secreT", "secre", "secret1", "\x00"} {
			if s.Match(wrong) {
				t.Errorf("%s: %q matches", k.name, wrong)
			}
		}
	}
}

func TestBadSecrets(t *testing.T) {
	for _, field := range []string{
		"secret", "{PLAIN", "{MD5}5ebe2294ecd0e0f08eab7690d2a6ee69", "{CRYPT}ab1Hs.q5JmZ9k", "$1$salt$hash",
		"{BLF-CRYPT}$6$saltstring$AIsRs", "{ARGON2ID}$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR",
		"{ARGON2ID}$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
		"{ARGON2ID}$argon2id$v=19$m=256,t=0,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
		"{ARGON2ID}$argon2id$m=256,t=1,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
		"$2b$31$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", "$2b$05$short", "$6$rounds=999999999$salt$hash",
		"{PBKDF2}$1$salt$0$8e455ae73af786d64f3a0b291ef71a407519dbe8", "{PBKDF2}$1$salt$5000$8e45",
		"{SCRAM-SHA-256}4096,c2FsdHNhbHRzYWx0,UdmK", "{SCRAM-SHA-256}4096,!,!,!", "$y$jzz$salt$hash", "$y$$", "$6$", "$",
	} {
		if s, err := Parse(field); err == nil {
			t.Errorf("Parse(%q): got %v, want an error", field, s)
		} else if strings.Contains(err.Error(), "8e45") || strings.Contains(err.Error(), "nf65") {
			t.Errorf("Parse(%q): the error shows the hash: %v", field, err)
		}
	}
	for _, field := range []string{"", "!", "*", "!!", "!$6$saltstring$x"} {
		if s, err := Parse(field); s != nil || err != nil {
			t.Errorf("Parse(%q): got %v, %v, want no secret and no error", field, s, err)
		}
	}
}

func FuzzSecret(f *testing.F) {
	for _, k := range known {
		f.Add(k.field)
	}
	f.Fuzz(func(t *testing.T, field string) {
		s, err := Parse(field)
		if err != nil || s == nil || !cheap(field) {
			return
		}
		if s.Match("") && !strings.Contains(field, "$") && !strings.HasPrefix(strings.ToUpper(field), "{SCRAM") {
			t.Errorf("%q: the empty password matches", field)
		}
	})
}

// cheap keeps the fuzzer from hashing for minutes.
func cheap(field string) bool {
	if strings.HasPrefix(field, "{PLAIN}") {
		return true
	}
	for _, k := range known {
		if i := strings.LastIndexByte(k.field, '$'); i > 0 && strings.HasPrefix(field, k.field[:i]) {
			return true
		}
	}
	return false
}
