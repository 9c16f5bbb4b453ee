begin;
insert into assent_barrier (gtid, participant, step, executed_at) values ('01a228ab-a052-7102-a214-f4746e5aa028', 'till-c', -1, now());
update account set balance = balance + 5 where id = 10;
insert into ledger (gtid, account, amount) values ('01a228ab-a052-7102-a214-f4746e5aa028', 10, 5);
prepare transaction 'assent:c0293597-eb08-4453-9994-d856f35197ab:{database}:till-c:01a228ab-a052-7102-a214-f4746e5aa028';
