package main

import "time"

// side is one of the two servers of a duel.
type side struct {
	do    func() error // brings everything, and returns when the server has it
	pids  func() []int // the server's processes
	clear func() error // looks what came of it, and takes it away
}

// duel is one load, brought to postel and to Postfix.
type duel struct {
	what, unit   string
	n            int    // units that each side has to take
	rate, cpu    string // what is wanted of the ratio of units a second, and of the processor time
	ours, theirs side
}

// fight runs a duel, in each round with the other side first, behind a round that warms both up.
func (b *bench) fight(part string, d duel) error {
	sides := [2]side{d.ours, d.theirs}
	var rates, cpus [2]ratios
	var rate, cpu ratios
	for round := range b.rounds + 1 {
		var r, c [2]float64
		for i := range 2 {
			i := (i + round) % 2
			s := sides[i]
			if err := settle(b.dir); err != nil {
				return err
			}
			before, begin := used(s.pids()...), time.Now()
			if err := s.do(); err != nil {
				return err
			}
			r[i] = float64(d.n) / time.Since(begin).Seconds()
			c[i] = float64((used(s.pids()...) - before).Microseconds()) / float64(d.n)
			if err := s.clear(); err != nil {
				return err
			}
		}
		if round == 0 {
			continue
		}
		for i := range 2 {
			rates[i].add(r[i])
			cpus[i].add(c[i])
		}
		rate.add(r[0] / r[1])
		cpu.add(c[0] / c[1])
	}
	say(part, "%s: postel %.0f %s/s, postfix %.0f: ratio %s, wanted %s", d.what, rates[0].median(), d.unit, rates[1].median(), rate, d.rate)
	say(part, "%s: postel %.0f us of processor each, postfix %.0f: ratio %s, wanted %s", d.what, cpus[0].median(), cpus[1].median(), cpu, d.cpu)
	return nil
}
