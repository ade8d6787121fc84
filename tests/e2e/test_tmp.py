def test_it(whole_run):
    print(open(whole_run.path/"results.json").read()[:1800])
    print(open(whole_run.ledger_path).read())
    for e in whole_run.events(): print({k:v for k,v in e.items() if k!='quality'})
