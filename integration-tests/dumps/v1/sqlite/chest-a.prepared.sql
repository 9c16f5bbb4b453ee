begin;
update account set balance = balance + -22 where id = 20;
insert into ledger (gtid, account, amount) values ('01a228ac-0968-74ac-b06b-82aeb45a879b', 20, -22);
prepare transaction 'assent:158fd5a5-d772-42d9-8368-1baf302c0d02:{database}:chest-a:01a228ac-0968-74ac-b06b-82aeb45a879b';
