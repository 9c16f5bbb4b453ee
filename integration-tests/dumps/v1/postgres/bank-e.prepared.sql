begin;
update account set balance = balance + 5 where id = 12;
insert into ledger (gtid, account, amount) values ('01a228ab-a13a-7552-ad69-1d231a9b6c9a', 12, 5);
prepare transaction 'assent:c0293597-eb08-4453-9994-d856f35197ab:{database}:bank-e:01a228ab-a13a-7552-ad69-1d231a9b6c9a';
