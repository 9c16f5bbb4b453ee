"""A bank in Python, from the protos alone: bank.py NAME DATABASE_URL [COORDINATOR, such as 127.0.0.1:7420]

The numbers in brackets are those of the rules in docs/wire.md.
"""

import json
import queue
import random
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import grpc
import psycopg
from psycopg import errors

from assent.v1 import session_pb2 as wire
from assent.v1 import session_pb2_grpc, types_pb2

TABLES = """
create table if not exists account (id text primary key, cents bigint not null);
insert into account values ('alice', 10000), ('bob', 10000) on conflict do nothing;
-- One row for each branch: written by its work, in the work's transaction, or by its abort. The first one wins.
create table if not exists branch_record (gid text primary key, is_aborted boolean not null);
"""


class Bank:
    """The branches, each a prepared transaction of the database."""

    def __init__(self, name, database):
        self.name, self.database, self.prefix = name, database, None

    def connect(self):
        return psycopg.connect(self.database, autocommit=True)

    def furnish(self):
        """A participant that has its tables leaves them alone: its own branches in doubt may hold their locks."""
        with self.connect() as db:
            if db.execute("select to_regclass('branch_record')").fetchone()[0] is None:
                db.execute(TABLES)

    def joined(self, coordinator_id):
        """[names] The gids of no other participant begin like this."""
        assert all(c in "abcdefghijklmnopqrstuvwxyz0123456789-" for c in coordinator_id), coordinator_id
        with self.connect() as db:
            oid = db.execute("select oid from pg_database where datname = current_database()").fetchone()[0]
        self.prefix = f"assent:{coordinator_id}:{oid}:{self.name}:"

    def gid(self, order):
        return f"{self.prefix}{uuid.UUID(bytes=order.gtid)}:{order.branch.epoch}.{order.branch.number:x}"

    def in_doubt(self, prepared_for_s=0):
        """[recovery] The branches that are prepared, whichever process has prepared them."""
        sql = """select gid from pg_prepared_xacts where database = current_database() and starts_with(gid, %s)
                 and prepared <= clock_timestamp() - make_interval(secs => %s)"""
        with self.connect() as db:
            for (gid,) in db.execute(sql, (self.prefix, prepared_for_s)).fetchall():
                gtid, branch = gid[len(self.prefix) :].split(":")
                epoch, number = branch.split(".")
                yield uuid.UUID(gtid).bytes, types_pb2.BranchId(epoch=int(epoch), number=int(number, 16))

    def is_prepared(self, db, gid):
        return db.execute("select from pg_prepared_xacts where gid = %s", (gid,)).fetchone() is not None

    def prepare(self, order):
        """[P1-P4] Does the work, and votes: a kind and a reason."""
        gid, ms = self.gid(order), max(order.prepare.timeout_ms, 1)
        with self.connect() as db:
            if self.is_prepared(db, gid):  # [P2] It came before: the answer is the same.
                return wire.VOTE_KIND_YES, ""
            try:
                booking = json.loads(order.prepare.payload)
                account, cents = str(booking["account"]), int(booking["cents"])
            except (ValueError, KeyError, TypeError) as error:  # [P3] It will not become readable.
                return wire.VOTE_KIND_NO, f"payload: {error!r}"
            db.execute(f"begin; set local statement_timeout = {ms}; set local lock_timeout = 4000")
            try:  # [F1] Only one of this row and an abort's can be written.
                db.execute("insert into branch_record values (%s, false)", (gid,))
            except errors.UniqueViolation:
                db.execute("rollback")
                aborted = db.execute("select is_aborted from branch_record where gid = %s", (gid,)).fetchone()[0]
                return (wire.VOTE_KIND_NO, "it was aborted before") if aborted else (wire.VOTE_KIND_YES, "")
            sql = "update account set cents = cents + %s where id = %s and cents + %s >= 0"
            if db.execute(sql, (cents, account, cents)).rowcount != 1:
                db.execute("rollback")
                return wire.VOTE_KIND_NO, "insufficient funds"
            db.execute(f"prepare transaction '{gid}'")  # [P1] Durable before the vote.
            return wire.VOTE_KIND_YES, ""

    def commit(self, order):
        """[E1] Commits. Done twice, it says the same."""
        gid = self.gid(order)
        with self.connect() as db:
            try:
                db.execute(f"commit prepared '{gid}'")
                return wire.BRANCH_RESULT_DONE
            except errors.UndefinedObject:
                record = db.execute("select is_aborted from branch_record where gid = %s", (gid,)).fetchone()
                done = record is not None and not record[0]
                return wire.BRANCH_RESULT_DONE if done else wire.BRANCH_RESULT_HEURISTIC_ABORTED

    def abort(self, order):
        """[F1] Aborts, and fences: once it returns, this branch never becomes prepared, however late its work ends."""
        gid = self.gid(order)
        with self.connect() as db:
            db.execute("set lock_timeout = 500")
            while True:
                try:
                    db.execute(f"rollback prepared '{gid}'")
                except errors.UndefinedObject:
                    pass
                try:  # It waits for work that holds the row, which then ends or prepares: so it goes round again.
                    sql = "insert into branch_record values (%s, true) on conflict do nothing"
                    if db.execute(sql, (gid,)).rowcount == 1:
                        return wire.BRANCH_RESULT_DONE
                    aborted = db.execute("select is_aborted from branch_record where gid = %s", (gid,)).fetchone()[0]
                    return wire.BRANCH_RESULT_DONE if aborted else wire.BRANCH_RESULT_HEURISTIC_COMMITTED
                except errors.LockNotAvailable:
                    continue


class Session:
    """One stream with a replica: from Hello until it breaks."""

    def __init__(self, bank, channel, pools):
        self.bank, self.pools, self.epochs = bank, pools, {}
        self.said = queue.Queue()
        instance = random.getrandbits(64) | 1
        hello = wire.Hello(participant=bank.name, instance_id=instance, protocol_version=2, sdk="bank.py")
        self.say(hello=hello)
        self.heard = session_pb2_grpc.SessionServiceStub(channel).Exchange(self.frames())

    def say(self, **kind):
        self.said.put(wire.ClientMessage(**kind))

    def frames(self):
        while (message := self.said.get()) is not None:
            yield wire.ExchangeRequest(messages=[message])

    def run(self):
        heard_at, silence_s, over = [time.monotonic()], [10.0], threading.Event()

        def beat():  # [S2] Not silent, and not deaf.
            while not over.wait(1.0):
                self.say(heartbeat=wire.Heartbeat())
                if time.monotonic() - heard_at[0] > silence_s[0]:
                    self.heard.cancel()

        def look():  # [recovery] On every session, and every minute for what another process has left.
            age = 0
            while True:
                for gtid, branch in self.bank.in_doubt(age):
                    report = wire.BranchReport(gtid=gtid, branch=branch, inquire=wire.Inquire())
                    self.say(branch=report)
                if over.wait(60):
                    return
                age = 10

        try:
            for frame in self.heard:
                heard_at[0] = time.monotonic()
                for message in frame.messages:
                    kind = message.WhichOneof("kind")
                    if kind == "welcome":
                        silence_s[0] = message.welcome.silence_max_ms / 1000
                        self.bank.joined(message.welcome.coordinator_id)
                        print(f"{self.bank.name} has joined", flush=True)
                        for task in (beat, look):
                            threading.Thread(target=task, daemon=True).start()
                    elif kind == "branch":
                        self.ordered(message.branch)
        finally:
            over.set()
            self.said.put(None)

    def ordered(self, order):
        key = (order.gtid, order.branch.epoch, order.branch.number)
        if order.epoch < self.epochs.get(key, 0):  # [F2] From a replica that no longer drives it.
            return
        self.epochs[key] = order.epoch
        work, ends = self.pools  # [P4] An end never waits behind work, which may wait for the locks that it frees.
        (work if order.HasField("prepare") else ends).submit(self.carry_out, order)

    def carry_out(self, order):
        report = wire.BranchReport(gtid=order.gtid, branch=order.branch)
        try:
            if order.HasField("prepare"):
                vote, reason = self.bank.prepare(order)
                report.vote.CopyFrom(wire.Vote(vote=vote, reason=reason))
            else:
                end, decision = self.bank.abort, types_pb2.DECISION_ABORT
                if order.HasField("commit"):
                    end, decision = self.bank.commit, types_pb2.DECISION_COMMIT
                done = wire.Acknowledge(decision=decision, epoch=order.epoch, result=end(order))
                report.acknowledge.CopyFrom(done)
        except Exception as error:  # [E2] The coordinator repeats an order to end; an unknown vote aborts.
            print(f"{self.bank.name}: {error!r}", file=sys.stderr, flush=True)
            if not order.HasField("prepare"):
                return
            report.vote.CopyFrom(wire.Vote(vote=wire.VOTE_KIND_UNKNOWN, reason=repr(error)))
        self.say(branch=report)


def main():
    name, database, coordinator = (sys.argv[1:] + ["127.0.0.1:7420"])[:3]
    bank, pools = Bank(name, database), (ThreadPoolExecutor(16), ThreadPoolExecutor(16))
    bank.furnish()
    while True:
        try:
            with grpc.insecure_channel(coordinator) as channel:
                Session(bank, channel, pools).run()
        except (grpc.RpcError, psycopg.Error) as error:  # [S3] Dial again; what is prepared waits.
            print(f"{name}: {error!r}; again in a moment", file=sys.stderr, flush=True)
        time.sleep(random.uniform(0.05, 0.5))


if __name__ == "__main__":
    main()
