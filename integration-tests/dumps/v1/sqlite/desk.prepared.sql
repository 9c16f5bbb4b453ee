begin;
update account set balance = balance + 7 where id = 15;
insert into ledger (gtid, account, amount) values ('01a228ab-fd56-73d5-b901-e997062a25d9', 15, 7);
prepare transaction 'assent:158fd5a5-d772-42d9-8368-1baf302c0d02:{database}:desk:01a228ab-fd56-73d5-b901-e997062a25d9';
begin;
update account set balance = balance + 7 where id = 16;
insert into ledger (gtid, account, amount) values ('01a228ab-fd6a-77b0-b360-62a32410711a', 16, 7);
prepare transaction 'assent:158fd5a5-d772-42d9-8368-1baf302c0d02:{database}:desk:01a228ab-fd6a-77b0-b360-62a32410711a';
