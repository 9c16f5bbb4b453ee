begin;
insert into assent_barrier (gtid, participant, step, executed_at) values ('01a228ab-fb62-71c4-b4af-05aed9f8285d', 'till-c', -1, now());
update account set balance = balance + 5 where id = 10;
insert into ledger (gtid, account, amount) values ('01a228ab-fb62-71c4-b4af-05aed9f8285d', 10, 5);
prepare transaction 'assent:158fd5a5-d772-42d9-8368-1baf302c0d02:{database}:till-c:01a228ab-fb62-71c4-b4af-05aed9f8285d';
