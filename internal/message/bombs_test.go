package message

import (
	"bufio"
	"strings"
	"testing"

	"github.com/postel-mail/postel/test/bombs"
)

func TestLinearList(t *testing.T) {
	for _, unit := range []string{"(", "()", ")", `"`, `""`, `"" `, `"\`, `\`, "[", "[]", "<", "<>", ">", "@", "a@", "@a,", ":", "a:", ";", ",", ".", "a.", "a",
		"a ", " ", "\r\n ", "=?", "=?a?", "=?a?b?c?=", "a@b,", "a@b ", "<a@b>", "<@a:", "<a ", `"a"<a@b>,`, "\x00", "\xff"} {
		bombs.Linear(t, "list", unit, func(in string) { _, _ = ParseList(in) })
	}
}

func TestLinearComplete(t *testing.T) {
	for _, unit := range []string{"a,", "a@b,", "a ", " ", "\t \r\n ", `"`, "("} {
		bombs.Linear(t, "header", unit, func(in string) {
			h, err := ReadHeader(bufio.NewReader(strings.NewReader("To: "+in+"\n\n")), 2*MaxHeader)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = h.Recipients()
			h.Complete(completion())
			_ = NewField("X", in)
		})
	}
}
