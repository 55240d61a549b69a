package userdb

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/postel-mail/postel/internal/password"
)

const scramLine = "{SCRAM-SHA-256}4096,c2FsdHNhbHRzYWx0,UdmKRUjfgm0U6mfMFFn/tGaEoriNY2YlrUES5w+4kaA=,ZH6upP+u0RFc4kNZYflxg+txwr3oIlzDM/JXePM5XCY="

func openTable(t *testing.T, text string) *DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, text)
	db, err := Open(path, []string{"example.org"})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// TestCanScram: it is offered when it works for everybody, and for nobody else.
func TestCanScram(t *testing.T) {
	for _, tt := range []struct {
		text string
		want bool
	}{
		{"a:{PLAIN}x\nb:" + scramLine + "\n", true},
		{"a:{PLAIN}x\nlocked:!\nnone:\n", true},
		{"a:{PLAIN}x\nb:$6$salt$x\n", false},
		{"a:{SCRAM-SHA-256}4095" + scramLine[len("{SCRAM-SHA-256}4096"):] + "\n", false}, // clients do not take so few
		{"a:{PLAIN}\n", false},
		{"none:\n", false},
		{"", false},
	} {
		if got := openTable(t, tt.text).CanScram(); got != tt.want {
			t.Errorf("%q: got %v, want %v", tt.text, got, tt.want)
		}
	}
	db, err := Open("system", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := db.Scram(context.Background(), "root"); db.CanScram() || err == nil {
		t.Errorf("system: can %v, %v", db.CanScram(), err)
	}
}

// TestScram: keys that are kept, keys that are derived, and keys that nothing fits.
func TestScram(t *testing.T) {
	db := openTable(t, "alice:"+scramLine+"\nroot:{PLAIN}secret:0:0::/root:\nbob@example.org:{PLAIN}wonder\nlocked:*\ndora:{PLAIN}x\n")
	db.Seed = []byte("seed")
	get := func(name string) (User, password.Scram) {
		t.Helper()
		u, keys, err := db.Scram(context.Background(), name)
		if err != nil || keys.Rounds != 4096 || len(keys.Salt) == 0 || len(keys.StoredKey) != 32 || len(keys.ServerKey) != 32 {
			t.Errorf("%q: %v, %+v", name, err, keys)
		}
		return u, keys
	}
	u, keys := get("ALICE@example.org")
	if u.Name != "alice" || string(keys.Salt) != "saltsaltsalt" {
		t.Errorf("alice: got %v with salt %q", u, keys.Salt)
	}
	u, keys = get("bob")
	if u.String() != "" { // bob is listed with a domain
		t.Errorf("bob: got %v", u)
	}
	u, bob := get("bob@example.org")
	want, _ := password.ScramOf(mustParse(t, "{PLAIN}wonder"), bob.Salt)
	if u.Name != "bob" || !bytes.Equal(bob.StoredKey, want.StoredKey) || !bytes.Equal(bob.ServerKey, want.ServerKey) {
		t.Errorf("bob@example.org: got %v, %x", u, bob.StoredKey)
	}
	if !bytes.Equal(bob.Salt, keys.Salt) {
		t.Error("a name that is there with its domain alone can be told from one that is not there")
	}
	for _, name := range []string{"nobody", "locked", "root", "nobody@example.net", "../x", "", "\x00"} {
		u, keys := get(name)
		if u.String() != "" {
			t.Errorf("%q: got user %v", name, u)
		}
		if _, again := get(name); !bytes.Equal(again.Salt, keys.Salt) {
			t.Errorf("%q: another salt the second time", name)
		}
		for _, guess := range []string{"", "wonder", "x", "secret"} {
			if k, _ := password.ScramOf(mustParse(t, "{PLAIN}"+guess), keys.Salt); bytes.Equal(k.StoredKey, keys.StoredKey) {
				t.Errorf("%q: %q opens it", name, guess)
			}
		}
	}
	if u, err := db.Authenticate(context.Background(), "root", "secret"); !errors.Is(err, ErrBadCredentials) || u.Name != "" {
		t.Errorf("the superuser: got %v, %v", u, err)
	}
	for _, same := range [][2]string{{"nobody", "NoBody"}, {"nobody", "nobody@example.org"}, {"dora", "Dora@EXAMPLE.org"}} {
		_, a := get(same[0])
		_, b := get(same[1])
		if !bytes.Equal(a.Salt, b.Salt) {
			t.Errorf("%s and %s have different salts", same[0], same[1])
		}
	}
	_, nobody := get("nobody")
	if _, other := get("somebody"); bytes.Equal(other.Salt, nobody.Salt) {
		t.Error("two who are not there have one salt")
	}
	db.Seed = []byte("another")
	if _, other := get("nobody"); bytes.Equal(other.Salt, nobody.Salt) {
		t.Error("a salt does not depend on the seed")
	}
}

// TestScramLooks: in a table of one kind a made-up salt has the length of the others.
func TestScramLooks(t *testing.T) {
	for text, want := range map[string]int{"a:" + scramLine + "\n": len("saltsaltsalt"), "a:{PLAIN}x\n": 16} {
		db := openTable(t, text)
		for _, name := range []string{"a", "nobody"} {
			if _, keys, err := db.Scram(context.Background(), name); err != nil || len(keys.Salt) != want {
				t.Errorf("%.20q: salt of %s has %d octets, want %d, %v", text, name, len(keys.Salt), want, err)
			}
		}
	}
}

func mustParse(t *testing.T, field string) password.Secret {
	t.Helper()
	s, err := password.Parse(field)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
