# postel as a target of runners that start peers in turn: sourced, it defines how to start, stop and clean it. $T is the target's name,
# $1 of t_start the mode: hold (nothing is delivered), local (to u1's Maildir), relay (everything to 127.0.0.1:$SINKPORT).
R=/; PORT=2507; SPOOL=$BENCH_DIR/postel; QUEUE=$SPOOL/spool/queue; MAILDIR=$SPOOL/home/u1/Maildir
POSTEL_BIN=${POSTEL_BIN:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../bin" && pwd)}
SENDMAIL=$POSTEL_BIN/sendmail; SUBMIT="$SENDMAIL -C $SPOOL/postel.toml"; SUBMIT_ARGS="-oi -t"
[ "${MODE:-}" = relay ] && RCPT=x@remote.test
t_start() {
	mkdir -p $SPOOL/home/u1
	printf 'u1:{PLAIN}secret::::%s::\n' $SPOOL/home/u1 >$SPOOL/users
	{
		printf 'hostname = "bench.test"\nspool = "%s"\nusers = "%s"\naliases = ""\n' $SPOOL/spool $SPOOL/users
		[ $1 = relay ] && printf '[routes]\n"*" = "smtp://127.0.0.1:%s"\n' $SINKPORT
		printf '[limits]\nmin_free = "1MiB"\n'
	} >$SPOOL/postel.toml
	in_cg $T $POSTEL_BIN/smtpd -C $SPOOL/postel.toml --listen 127.0.0.1:$PORT >>$BENCH_DIR/postel.log 2>&1 &
	[ $1 = hold ] || in_cg $T $POSTEL_BIN/qmgr -C $SPOOL/postel.toml >>$BENCH_DIR/postel.log 2>&1 &
	wait_port $PORT
}
t_stop() { kill_target $T; }
t_clean() { [ ! -d $QUEUE ] || find $QUEUE $SPOOL/spool/state -type f -delete; rm -rf $MAILDIR; } # the programs go on, with their configuration
