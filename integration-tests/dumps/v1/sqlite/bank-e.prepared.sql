begin;
update account set balance = balance + 5 where id = 12;
insert into ledger (gtid, account, amount) values ('01a228b0-e463-7755-b75a-aeb22f57629d', 12, 5);
prepare transaction 'assent:e7effee7-be88-4206-81be-cf617a710a94:{database}:bank-e:01a228b0-e463-7755-b75a-aeb22f57629d';
