package envelope

import (
	"errors"
	"fmt"
	"strings"
)

// DSN is what the sender of a message wants to hear of one recipient (RFC 3461 4), in the forms of Envelope and Recipient. The zero value asks for nothing.
type DSN struct{ Notify, ORcpt, Ret, EnvID string }

// DSN is what the sender wants to hear of r.
func (e *Envelope) DSN(r Recipient) DSN { return DSN{r.Notify, r.ORcpt, e.Ret, e.EnvID} }

// ParseDSN reads the values of the flags that Flags writes, each "" where it was not given. The case of notify and ret does not matter.
func ParseDSN(notify, orcpt, ret, envID string) (d DSN, err error) {
	if notify != "" {
		if d.Notify, err = ParseNotify(notify); err != nil {
			return d, fmt.Errorf("-N %q: %w", notify, err)
		}
	}
	if d.ORcpt, err = DecodeXtext(orcpt); err == nil {
		err = CheckORcpt(d.ORcpt)
	}
	if err != nil {
		return d, fmt.Errorf("--orcpt %q: %w", orcpt, err)
	}
	d.Ret = strings.ToUpper(ret)
	if d.Ret != "" && d.Ret != "FULL" && d.Ret != "HDRS" {
		return d, fmt.Errorf("-R %q: must be full or hdrs", ret)
	}
	if d.EnvID, err = DecodeXtext(envID); err == nil {
		err = checkEnvID(d.EnvID)
	}
	if err != nil {
		return d, fmt.Errorf("-V %q: %w", envID, err)
	}
	return d, nil
}

// checkEnvID checks a decoded ENVID; "" is none.
func checkEnvID(s string) error {
	if len(s) > 100 || !isPrintable(s) {
		return errors.New("must be xtext (RFC 3461 4) for at most 100 printable characters")
	}
	return nil
}

// CheckORcpt checks a decoded ORCPT; "" is none.
func CheckORcpt(s string) error {
	kind, addr, ok := strings.Cut(s, ";")
	if s != "" && (!ok || kind == "" || addr == "" || len(s) > 500 || !isPrintable(kind) || strings.ContainsFunc(addr, isControl) || kind != UTF8Type && !isPrintable(addr)) {
		return errors.New("must be type;address")
	}
	return nil
}

// EncodeORcpt writes a decoded ORCPT as the parameter's value (RFC 3461 4.2, RFC 6533 3), fit for a command of SMTP; "" where it has no type.
func EncodeORcpt(s string) string {
	kind, addr, ok := strings.Cut(s, ";")
	switch {
	case !ok:
		return ""
	case kind == UTF8Type:
		return kind + ";" + EncodeUnitext(addr)
	}
	return EncodeXtext(kind) + ";" + EncodeXtext(addr)
}

func isPrintable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// Valid is d without what ParseDSN would refuse. No server should have taken that in, and it must not hold up a message.
func (d DSN) Valid() DSN {
	if checkEnvID(d.EnvID) != nil {
		d.EnvID = ""
	}
	if CheckORcpt(d.ORcpt) != nil {
		d.ORcpt = ""
	}
	return d
}

// Flags are the flags of sendmail(1) and deliver(1) that ask for what is valid of it. Values are attached, so that none is taken for a flag or a word of its own.
func (d DSN) Flags() (args []string) {
	d = d.Valid()
	if d.Notify != "" {
		args = append(args, "--notify="+d.Notify)
	}
	if d.Ret != "" {
		args = append(args, "--return="+d.Ret)
	}
	if d.EnvID != "" {
		args = append(args, "--envelope-id="+EncodeXtext(d.EnvID))
	}
	if d.ORcpt != "" {
		args = append(args, "--orcpt="+EncodeXtext(d.ORcpt))
	}
	return args
}

// WantsSuccess reports whether the sender wants to hear of success.
func (d DSN) WantsSuccess() bool { return Recipient{Notify: d.Notify}.Wants("SUCCESS") }

// WithoutSuccess is d for one of several recipients that an address stands for: their failures are told, their successes are not (RFC 3461 5.2.7.3 (c)).
func (d DSN) WithoutSuccess() DSN {
	if !d.WantsSuccess() {
		return d
	}
	var rest []string
	for word := range strings.SplitSeq(d.Notify, ",") {
		if word != "SUCCESS" {
			rest = append(rest, word)
		}
	}
	if d.Notify = strings.Join(rest, ","); d.Notify == "" {
		d.Notify = "NEVER" // nothing but success was asked for
	}
	return d
}
