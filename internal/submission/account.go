package submission

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Account finds a user's login name and full name in /etc/passwd; $USER and $LOGNAME are not looked at: they are whatever the caller
// likes. A user who is not there is named after the number.
func Account(uid int) (login, name string) {
	f, err := os.Open("/etc/passwd")
	if err == nil {
		defer f.Close()
		login, name = findUID(f, uid)
	}
	if login == "" {
		login = "uid" + strconv.Itoa(uid)
	}
	return login, name
}

// findUID looks in a passwd(5) file. The full name is the first of the comma list in the gecos field, with "&" for the login name.
func findUID(r io.Reader, uid int) (login, name string) {
	number := strconv.Itoa(uid)
	for lines := bufio.NewScanner(r); lines.Scan(); {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 7 || fields[2] != number || fields[0] == "" {
			continue
		}
		name, _, _ = strings.Cut(fields[4], ",")
		_, n := utf8.DecodeRuneInString(fields[0])
		return fields[0], strings.ReplaceAll(name, "&", strings.ToUpper(fields[0][:n])+fields[0][n:])
	}
	return "", ""
}
