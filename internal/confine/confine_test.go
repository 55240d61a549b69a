package confine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// TestMain makes the test's own program the one that is confined: what it becomes cannot be taken back.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CONFINE_TEST"); dir != "" {
		inside(dir, os.Getenv("CONFINE_PROGRAMS") != "")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// inside prints what a confined process can do, a word for each thing that it can.
func inside(dir string, programs bool) {
	text, err := Enter(Bounds{Home: dir + "/home", Read: []string{dir + "/tables/users", "", dir + "/more"}, Write: []string{dir + "/sockets"}, Programs: programs})
	fmt.Println(text, err)
	can := func(what string, err error) {
		if err == nil {
			fmt.Println("can", what)
		}
	}
	done := make(chan struct{})
	go func() { // on whatever thread: all are confined
		defer close(done)
		for _, name := range []string{"tables/users", "tables/aliases", "more/x", "other/x"} {
			_, err := os.ReadFile(dir + "/" + name)
			can("read "+name, err)
		}
		for _, name := range []string{"home/x", "sockets/x", "tables/x", "other/y"} {
			can("write "+name, os.WriteFile(dir+"/"+name, nil, 0o600))
		}
		can("rename", os.Rename(dir+"/home/x", dir+"/home/sub/x"))
		can("remove", os.Remove(dir+"/home/sub/x"))
		_, err := os.ReadFile("/etc/passwd")
		can("read passwd", err)
		can("run", exec.Command("/bin/true").Run())
		null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
		can("null", err)
		null.Close()
	}()
	<-done
	fmt.Println("uid", os.Getuid(), os.Geteuid())
}

func TestEnter(t *testing.T) {
	_, err := llsys.LandlockGetABIVersion()
	landlock := err == nil // else there is nothing to be tested but who the process becomes
	for _, programs := range []bool{false, true} {
		t.Run(fmt.Sprintf("programs=%v", programs), func(t *testing.T) {
			dir := t.TempDir()
			for d := dir; d != "/"; d = filepath.Dir(d) {
				if st, err := os.Stat(d); err == nil && st.Mode()&0o001 == 0 && os.Getuid() == 0 {
					if err := os.Chmod(d, st.Mode()|0o711); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, d := range []string{"home", "home/sub", "sockets", "tables", "more", "other"} {
				if err := os.Mkdir(dir+"/"+d, 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(dir+"/"+d, 0o777); err != nil {
					t.Fatal(err)
				}
			}
			for _, f := range []string{"tables/users", "tables/aliases", "more/x", "other/x"} {
				if err := os.WriteFile(dir+"/"+f, nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			uid := os.Getuid()
			if uid == 0 {
				uid = 65533
				if err := os.Chown(dir+"/home", uid, 65533); err != nil {
					t.Fatal(err)
				}
				if err := os.Chown(dir+"/tables/users", 0, 42); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(dir+"/tables/users", 0o640); err != nil { // by its group alone
					t.Fatal(err)
				}
			}
			c := exec.Command(os.Args[0])
			c.Dir = dir + "/other" // what is not named is not the folder where the process happens to be
			c.Env = append(os.Environ(), "CONFINE_TEST="+dir)
			want := "can read tables/users\ncan read tables/aliases\ncan read more/x\ncan write home/x\ncan write sockets/x\ncan rename\ncan remove\ncan read passwd\ncan null\n"
			if programs {
				c.Env = append(c.Env, "CONFINE_PROGRAMS=1")
			}
			if programs || !landlock {
				want = "can read tables/users\ncan read tables/aliases\ncan read more/x\ncan read other/x\ncan write home/x\ncan write sockets/x\ncan write tables/x\ncan write other/y\n" +
					"can rename\ncan remove\ncan read passwd\ncan run\ncan null\n"
			}
			want += fmt.Sprintf("uid %d %d\n", uid, uid)
			out, err := c.CombinedOutput()
			first, rest, _ := strings.Cut(string(out), "\n")
			if err != nil || rest != want {
				t.Errorf("%v, %s\n%s\nwant\n%s", err, first, rest, want)
			}
			wantFirst := fmt.Sprintf("user %d", uid)
			if os.Getuid() == 0 {
				wantFirst += ", group 65533 and 42"
			}
			if !strings.HasPrefix(first, wantFirst) || strings.Contains(first, "by Landlock") == (programs || !landlock) || !strings.HasSuffix(first, "<nil>") {
				t.Errorf("it says %q", first)
			}
		})
	}
}
